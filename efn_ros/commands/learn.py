"""what was learnt at work: list the checkpoints of a bank and their proofs, switch between them, undo a switch"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

NEXT = "a running graph with learn: true takes it up with its next episode"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, what in (
        ("status", "the checkpoint in use, every candidate with its proof, and all switches"),
        ("switch", "use another checkpoint: the newest that is offered, or the one that is named"),
        ("undo", "take back the last switch that was not taken back yet"),
    ):
        command = commands.add_parser(action, help=what, description=f"{what}; {NEXT}" if action != "status" else what)
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON")
        if action == "switch":
            command.add_argument("number", type=int, nargs="?", metavar="NUMBER", help="of the checkpoint")
        if action != "status":
            command.add_argument("--why", default="", help="goes into the log")


def run(args: argparse.Namespace) -> int:
    from efn_ros.correction.registry import Registry

    registry = Registry(args.bank)
    try:
        if registry.current() is None:
            raise ValueError(f"nothing was learnt in {registry.directory}; set learn: true to let the graph learn")
        if args.action == "status":
            return status(registry, args.json)
        if args.action == "undo":
            chosen = registry.undo(why=args.why)
        else:
            offered = [c.number for c in registry.offered()]
            if args.number is None and not offered:
                raise ValueError("no candidate is offered; ./efn learn status says what came of each")
            chosen = registry.switch(offered[-1] if args.number is None else args.number, why=args.why)
    except (OSError, ValueError) as error:
        print(f"efn learn: {error}", file=sys.stderr)
        return 2
    print(
        json.dumps(registry.switches()[-1], indent=1)
        if args.json
        else f"checkpoint {chosen.number} ({chosen.fingerprint}) is in use: {NEXT}"
    )
    return 0


def status(registry, as_json: bool) -> int:
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
                state or ("proven" if report["proven"] else "rejected"),
                report.get("parent", {}).get("number", "-"),
                report.get("revision", "-"),
                tables.percent(largest) if change else "-",
                report["reason"],
            ]
        )
    print(tables.markdown(["checkpoint", "state", "from", "revision", "largest change", "proof"], rows))
    if switches:
        print("\nSwitches, the last one below\n")
        columns = ["when", "from", "to", "who", "why"]
        print(tables.markdown(columns, [[entry[c] for c in columns] for entry in switches]))
    return 0
