# SPDX-License-Identifier: MIT
"""Show what correction would have changed in decisions that were made in shadow."""

from __future__ import annotations

import argparse
import sys

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import group_name, intact_rollouts

NONE = "no decision of this bank was made in shadow: set shadow: true of efn_corrector, and record"
COLUMNS = ["task", "rollouts", "decisions", "proposed", "clipped by limits", "confidence"]


def run(args: argparse.Namespace) -> Output:
    """Run the action; the exit code without --json is 1 if no decision was made in shadow."""
    from efn_ros.bank.store import summary
    from efn_ros.report import tables

    changes = summary.shadow(intact_rollouts(args.bank))
    if not changes and not args.json:
        print(NONE, file=sys.stderr)
        return Output(changes, "", 1)
    rows = []
    for r in changes:
        shares = [tables.percent(r[name]) for name in ("proposed", "clipped")]
        rows.append([group_name(r), r["rollouts"], r["decisions"], *shares, f"{r['confidence']:.2f}"])
    text = tables.markdown(COLUMNS, rows)
    if size := max((len(r["mean"]) for r in changes), default=0):
        sizes = [[f"{m:.3f} / {x:.3f}" for m, x in zip(r["mean"], r["largest"], strict=True)] for r in changes]
        rows = [[group_name(r), *(cells or ["-"] * size)] for r, cells in zip(changes, sizes, strict=True)]
        text += "\n\nResidual proposed: mean and largest size by dimension of the action, in its units\n\n"
        text += tables.markdown(["task", *map(str, range(size))], rows)
    return Output(changes, text)
