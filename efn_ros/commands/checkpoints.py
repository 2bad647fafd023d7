"""the checkpoints learned at work: list those of a bank and their validation, switch between them, undo a switch"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efn_ros.correction.registry import Registry

NEXT = "a running graph with learn: true uses it from its next episode on"
ACTIONS = {
    "status": "the checkpoint in use, every candidate with its validation, and all switches",
    "switch": "use another checkpoint: the newest that is offered, or the one that is named",
    "undo": "undo the last switch that was not undone yet",
}
COLUMNS = ["checkpoint", "state", "from", "revision", "largest change", "validation"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, what in ACTIONS.items():
        command = commands.add_parser(action, help=what, description=f"{what}; {NEXT}" if action != "status" else what)
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON")
        if action == "switch":
            command.add_argument("number", type=int, nargs="?", metavar="NUMBER", help="of the checkpoint")
        if action != "status":
            command.add_argument("--why", default="", help="kept in the log")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from efn_ros.correction.registry import Registry

    registry = Registry(args.bank)
    try:
        if registry.current() is None:
            raise ValueError(f"there is no checkpoint in {registry.directory}; set learn: true to let the graph learn")
        if args.action == "status":
            return print_status(registry, args.json)
        if args.action == "undo":
            chosen = registry.undo(why=args.why)
        else:
            offered = [c.number for c in registry.offered()]
            if args.number is None and not offered:
                raise ValueError("no candidate is offered; ./efn checkpoints status gives the reasons")
            chosen = registry.switch(offered[-1] if args.number is None else args.number, why=args.why)
    except (OSError, ValueError) as error:
        print(f"efn checkpoints: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(registry.switches()[-1], indent=1))
    else:
        print(f"checkpoint {chosen.number} ({chosen.fingerprint}) is in use: {NEXT}")
    return 0


def print_status(registry: Registry, as_json: bool) -> int:
    """Print the checkpoints of a bank and the log of switches."""
    from efn_ros.report import tables

    summary, checkpoints, switches = registry.summary(), registry.checkpoints(), registry.switches()
    if as_json:
        reports = {"checkpoints": [c.report for c in checkpoints]}
        print(json.dumps({**summary, **reports, "switches": switches}, indent=1))
        return 0
    rows = []
    for checkpoint in checkpoints:
        report, number = checkpoint.report, checkpoint.number
        change = report.get("change")
        largest = max(c / b for c, b in zip(change["largest"], change["bound"], strict=True)) if change else 0.0
        state = "in use" if number == summary["current"] else "offered" if number in summary["offered"] else ""
        rows.append(
            [
                number,
                state or ("accepted" if report["accepted"] else "rejected"),
                report.get("parent", {}).get("number", "-"),
                report.get("revision", "-"),
                tables.percent(largest) if change else "-",
                report["reason"],
            ]
        )
    print(tables.markdown(COLUMNS, rows))
    if switches:
        print("\nSwitches, the latest last\n")
        columns = ["when", "from", "to", "who", "why"]
        print(tables.markdown(columns, [[entry[c] for c in columns] for entry in switches]))
    return 0
