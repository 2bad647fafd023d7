"""the rollouts, all or those that filters let pass"""

from __future__ import annotations

import argparse
import json

from efn_ros.commands.bank._common import add_filters, as_dict

COLUMNS = ["rollout", "began (UTC)", "robot", "task", "outcome", "decisions", "MB", "policy"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_filters(parser)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.filters import date_of, matching
    from efn_ros.report import tables

    records = matching(BankReader(args.bank).rollouts(), args.where)
    if args.json:
        print(json.dumps([as_dict(record) for record in records], indent=1))
        return 0
    rows = [
        [
            r.id,
            date_of(r).replace("T", " "),
            r.robot,
            r.task,
            r.outcome.name.lower(),
            r.decisions,
            f"{r.payload_size / 1e6:.1f}",
            r.policy,
        ]
        for r in records
    ]
    print(tables.markdown(COLUMNS, rows))
    print(f"\n{len(records)} rollouts, {sum(r.decisions for r in records)} decisions")
    return 0
