"""what correction would have changed, had it not run in shadow"""

from __future__ import annotations

import argparse
import json
import sys

from efn_ros.commands.bank._common import group_name, whole_rollouts

NONE = "no decision of this bank was made in shadow: set shadow: true of efn_corrector, and record"
COLUMNS = ["task", "rollouts", "decisions", "proposed", "clipped by limits", "confidence"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 where no decision was made in shadow."""
    from efn_ros.bank.store import summary
    from efn_ros.report import tables

    changes = summary.shadow(whole_rollouts(args.bank))
    if args.json:
        print(json.dumps(changes, indent=1))
        return 0
    if not changes:
        print(NONE, file=sys.stderr)
        return 1
    rows = [
        [
            group_name(r),
            r["rollouts"],
            r["decisions"],
            tables.percent(r["proposed"]),
            tables.percent(r["clipped"]),
            f"{r['confidence']:.2f}",
        ]
        for r in changes
    ]
    print(tables.markdown(COLUMNS, rows))
    size = max(len(r["mean"]) for r in changes)
    if not size:
        return 0
    print("\nResidual proposed: mean and largest size by dimension of the action, in its units\n")
    sizes = [[f"{m:.3f} / {x:.3f}" for m, x in zip(r["mean"], r["largest"], strict=True)] for r in changes]
    rows = [[group_name(r), *(cells or ["-"] * size)] for r, cells in zip(changes, sizes, strict=True)]
    print(tables.markdown(["task", *map(str, range(size))], rows))
    return 0
