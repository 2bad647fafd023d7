"""remove rollouts for good"""

from __future__ import annotations

import argparse
import json

from efn_ros.commands.bank._common import add_filters, open_writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="do it; else it is only printed what would be forgotten")
    parser.add_argument("--reason", default="asked for by hand", help="kept with the list of what was forgotten")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.filters import matching

    if not args.where:
        raise ValueError("no rollout is named; name it with --where, for instance id=seed-0 or task=push*")
    records = matching(BankReader(args.bank).rollouts(), args.where)
    if args.yes and records:
        with open_writer(args.bank) as writer:
            writer.forget(*(r.id for r in records), reason=args.reason)
    if args.json:
        ids = [r.id for r in records]
        print(json.dumps({"forgotten": ids if args.yes else [], "matching": ids}))
        return 0
    for record in records:
        print(f"{record.id}  {record.task}  {record.outcome.name.lower()}  {record.decisions} decisions")
    done = "are forgotten" if args.yes else "would be forgotten; add --yes to do it"
    print(f"{len(records)} rollouts {done}")
    return 0
