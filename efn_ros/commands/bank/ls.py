# SPDX-License-Identifier: MIT
"""List the rollouts, all or those that match filters."""

from __future__ import annotations

import argparse

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import add_filters, as_dict

COLUMNS = ["rollout", "began (UTC)", "robot", "task", "outcome", "decisions", "MB", "policy"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_filters(parser)


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.bank.store.filters import date_of, matching
    from efn_ros.report import tables

    records = matching(BankReader(args.bank).rollouts(), args.where)
    rows = []
    for r in records:
        began, size = date_of(r).replace("T", " "), f"{r.payload_size / 1e6:.1f}"
        rows.append([r.id, began, r.robot, r.task, r.outcome.name.lower(), r.decisions, size, r.policy])
    total = f"{len(records)} rollouts, {sum(r.decisions for r in records)} decisions"
    return Output([as_dict(record) for record in records], f"{tables.markdown(COLUMNS, rows)}\n\n{total}")
