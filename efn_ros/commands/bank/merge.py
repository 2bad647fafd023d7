"""add the rollouts of other banks of the same projection"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efn_ros.commands.bank._common import open_writer, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="banks whose rollouts are added")
    parser.add_argument("--forgotten", action="store_true", help="also those that were forgotten in BANK")


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 where a rollout has the name of another one."""
    from efn_ros.bank import BankReader

    added: list[str] = []
    present: list[str] = []
    forgotten: list[str] = []
    different: list[str] = []
    sources = [BankReader(source.expanduser()).snapshot() for source in args.sources]
    for source, snapshot in zip(args.sources, sources, strict=True):
        if not snapshot.projection:
            raise ValueError(f"there is no bank in {source}")
    with open_writer(args.bank, sources[0].projection) as writer:
        held, gone = {r.id: r.payload_checksum for r in BankReader(args.bank).rollouts()}, writer.forgotten()
        for rollout in progress("rollouts")([r for snapshot in sources for r in snapshot.rollouts]):
            record = rollout.record
            if record.id in held:
                (present if held[record.id] == record.payload_checksum else different).append(record.id)
            elif record.id in gone and not args.forgotten:
                forgotten.append(record.id)
            else:
                writer.adopt(rollout)
                held[record.id] = record.payload_checksum
                added.append(record.id)
    if args.json:
        result = {"added": added, "already_present": present, "forgotten": forgotten, "different": different}
        print(json.dumps(result, indent=1))
        return 1 if different else 0
    print(f"{len(added)} rollouts are added to {args.bank}, {len(present)} were in it already")
    for names, why in (
        (forgotten, "were forgotten there and stay so, unless --forgotten is given"),
        (different, "are not added: the bank has others of these names"),
    ):
        if names:
            print(f"{len(names)} {why}: {', '.join(names)}")
    return 1 if different else 0
