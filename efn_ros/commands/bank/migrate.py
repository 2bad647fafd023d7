"""make a bank of an earlier format one of the present format, in place"""

from __future__ import annotations

import argparse
import json
import sys

from efn_ros.commands.bank._common import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("--skip-corrupt", action="store_true", help="leave corrupt rollouts behind and name them")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from efn_ros.bank.store.migrate import migrate

    rollouts, left = migrate(args.bank, skip_corrupt=args.skip_corrupt, progress=progress("rollouts"))
    if args.json:
        print(json.dumps({"migrated": rollouts, "left_behind": left}, indent=1))
        return 0
    for name in left:
        print(f"rollout {name!r} is corrupt and left behind", file=sys.stderr)
    print(f"{rollouts} rollouts are migrated" if rollouts or left else "this bank is of the present format already")
    return 0
