# SPDX-License-Identifier: MIT
"""Remove rollouts for good."""

from __future__ import annotations

import argparse

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import add_filters, open_writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="remove them; without it the matching rollouts are listed")
    parser.add_argument("--reason", default="asked for by hand", help="stored in the list of removed rollouts")


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.filters import matching

    if not args.where:
        raise ValueError("no rollout is named; name it with --where, for instance id=seed-0 or task=push*")
    records = matching(BankReader(args.bank).rollouts(), args.where)
    ids = [record.id for record in records]
    if args.yes and records:
        with open_writer(args.bank) as writer:
            writer.remove(*ids, reason=args.reason)
    lines = [f"{r.id}  {r.task}  {r.outcome.name.lower()}  {r.decisions} decisions" for r in records]
    done = "are removed" if args.yes else "would be removed; add --yes to remove them"
    data = {"removed": ids if args.yes else [], "matching": ids}
    return Output(data, "\n".join([*lines, f"{len(records)} rollouts {done}"]))
