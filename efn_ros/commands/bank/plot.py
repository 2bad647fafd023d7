# SPDX-License-Identifier: MIT
"""Draw success by day and task, growth, and a map of the keys, as a figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import add_filters, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_filters(parser)
    parser.add_argument("--output", type=Path, metavar="PNG", help="default: the name of the bank")


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.report.bank_figure import bank_figure

    rollouts = select(BankReader(args.bank, skip_corrupt=True).snapshot().rollouts, args.where)
    output = args.output or Path(f"{args.bank.resolve().name}.png")
    bank_figure(rollouts, output)
    return Output({"rollouts": len(rollouts), "figure": str(output)}, f"figure: {output}")
