"""look into an experience bank: what it holds and what taught most, what shadow mode would have changed"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

TEACHERS = 10  # rollouts that are shown; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, (_, what) in ACTIONS.items():
        command = commands.add_parser(action, help=what, description=what)
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    from efn_ros.bank import BankError, BankReader
    from efn_ros.bank.catalogue import CATALOGUE

    directory = args.bank.expanduser()
    if not (directory / CATALOGUE).is_file():
        print(f"efn bank: there is no bank in {directory}: it holds no {CATALOGUE}", file=sys.stderr)
        return 2
    try:
        snapshot = BankReader(directory, skip_corrupt=True).snapshot(verified=True)
    except BankError as error:
        print(f"efn bank: {error}", file=sys.stderr)
        return 2
    for rollout in snapshot.skipped:
        print(f"efn bank: rollout {rollout!r} is corrupt and left out", file=sys.stderr)
    return ACTIONS[args.action][0](snapshot.rollouts, args.json)


def stats(rollouts, as_json: bool) -> int:
    from efn_ros.bank import summary
    from efn_ros.report import tables

    held = summary.contents([r.record for r in rollouts])
    modes, teachers = summary.exploration(rollouts), summary.teachers(rollouts)
    if as_json:
        print(json.dumps({"contents": held, "exploration": modes, "teachers": teachers}, indent=1))
        return 0
    rows = [[_group(r), r["rollouts"], r["decisions"], f"{r['bytes'] / 1e6:.1f}"] for r in held]
    print(tables.markdown(["task", "rollouts", "decisions", "MB"], rows))
    print("\nExploration; taught: corrections in successes that such a decision was the experience behind\n")
    columns = ["mode", "decisions", "rollouts", "successes", "taught"]
    print(tables.markdown(columns, [[r[c] for c in columns] for r in modes]))
    if teachers:
        print("\nWhat taught most: the experience behind corrections in episodes that then succeeded\n")
        columns = ["rollout", "task", "outcome", "corrections", "episodes"]
        print(tables.markdown(columns, [[r[c] for c in columns] for r in teachers[:TEACHERS]]))
    return 0


def shadow(rollouts, as_json: bool) -> int:
    from efn_ros.bank import summary
    from efn_ros.report import tables

    changes = summary.shadow(rollouts)
    if as_json:
        print(json.dumps(changes, indent=1))
        return 0
    if not changes:
        print(
            "no decision of this bank was made in shadow: set shadow: true of efn_corrector, and record",
            file=sys.stderr,
        )
        return 1
    rows = [
        [
            _group(r),
            r["rollouts"],
            r["decisions"],
            tables.percent(r["proposed"]),
            tables.percent(r["cut"]),
            f"{r['confidence']:.2f}",
        ]
        for r in changes
    ]
    print(tables.markdown(["task", "rollouts", "decisions", "proposed", "cut by limits", "confidence"], rows))
    size = max(len(r["mean"]) for r in changes)
    if not size:
        return 0
    print("\nResidual proposed: mean and largest size by dimension of the action, in its units\n")
    pairs = [[f"{m:.3f} / {x:.3f}" for m, x in zip(r["mean"], r["largest"], strict=True)] for r in changes]
    rows = [[_group(r), *(said or ["-"] * size)] for r, said in zip(changes, pairs, strict=True)]
    print(tables.markdown(["task", *map(str, range(size))], rows))
    return 0


def _group(row: dict) -> str:
    return f"{row['task']}, {row['outcome']}" if row["outcome"] else row["task"]


ACTIONS = {
    "stats": (stats, "rollouts, steps, bytes; by task, outcome and exploration; which rollouts taught most"),
    "shadow": (shadow, "what correction would have changed, had it not run in shadow"),
}
