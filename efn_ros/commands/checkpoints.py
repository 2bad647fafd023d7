# SPDX-License-Identifier: MIT
"""List the checkpoints of learning at work with their validation, switch between them, or undo a switch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from efn_ros.commands._output import Output

if TYPE_CHECKING:
    from efn_ros.correction.checkpoint_registry import Registry

NEXT = "a running graph with learn: true uses it from its next episode on"
ACTIONS = {
    "status": "list the checkpoint in use, every candidate with its validation, and all switches",
    "switch": "use another checkpoint: the newest that is offered, or the one with this number",
    "undo": "undo the last switch that was not undone yet",
}
COLUMNS = ["checkpoint", "state", "from", "revision", "largest change", "validation"]
SWITCH_COLUMNS = ["when", "from", "to", "who", "why"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, what in ACTIONS.items():
        command = commands.add_parser(action, help=what, description=what if action == "status" else f"{what}; {NEXT}")
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON")
        if action == "switch":
            command.add_argument("number", type=int, nargs="?", metavar="NUMBER", help="of the checkpoint")
        if action != "status":
            command.add_argument("--why", default="", help="stored in the log of switches")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from efn_ros.correction.checkpoint_registry import Registry

    try:
        return _output(Registry(args.bank), args).print(args.json)
    except (OSError, ValueError) as error:
        print(f"efn checkpoints: {error}", file=sys.stderr)
        return 2


def _output(registry: Registry, args: argparse.Namespace) -> Output:
    if registry.current() is None:
        raise ValueError(f"there is no checkpoint in {registry.directory}; set learn: true to let the graph learn")
    if args.action == "status":
        return _status(registry)
    if args.action == "undo":
        chosen = registry.undo(why=args.why)
    else:
        offered = [c.number for c in registry.offered()]
        if args.number is None and not offered:
            raise ValueError("no candidate is offered; ./efn checkpoints status gives the reasons")
        chosen = registry.switch(offered[-1] if args.number is None else args.number, why=args.why)
    return Output(registry.switches()[-1], f"checkpoint {chosen.number} ({chosen.fingerprint}) is in use: {NEXT}")


def _status(registry: Registry) -> Output:
    """The checkpoints of a bank, and the log of switches."""
    from efn_ros.report import tables

    summary, checkpoints, switches = registry.summary(), registry.checkpoints(), registry.switches()
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
    text = tables.markdown(COLUMNS, rows)
    if switches:
        text += "\n\nSwitches, the latest last\n\n"
        text += tables.markdown(SWITCH_COLUMNS, [[entry[c] for c in SWITCH_COLUMNS] for entry in switches])
    return Output({**summary, "checkpoints": [c.report for c in checkpoints], "switches": switches}, text)
