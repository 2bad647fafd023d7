# SPDX-License-Identifier: MIT
"""Convert a bank of an earlier format to the present one, in place."""

from __future__ import annotations

import argparse
import sys

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("--skip-corrupt", action="store_true", help="leave corrupt rollouts out and name them")


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank.store.migrate import migrate

    rollouts, skipped = migrate(args.bank, skip_corrupt=args.skip_corrupt, progress=progress("rollouts"))
    for name in skipped:
        print(f"rollout {name!r} is corrupt and left out", file=sys.stderr)
    done = f"{rollouts} rollouts are migrated" if rollouts or skipped else "this bank has the present format already"
    return Output({"migrated": rollouts, "left_behind": skipped}, done)
