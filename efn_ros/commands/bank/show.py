# SPDX-License-Identifier: MIT
"""Show one rollout, and draw a contact sheet of its images and actions."""

from __future__ import annotations

import argparse
from pathlib import Path

from efn_ros.commands._output import Output
from efn_ros.commands.bank._common import as_dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("rollout", help="its identifier")
    parser.add_argument("--output", type=Path, metavar="PNG", help="of the contact sheet; default: the identifier")


def run(args: argparse.Namespace) -> Output:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.report.contact_sheet import contact_sheet

    found = [r for r in BankReader(args.bank).snapshot().rollouts if r.record.id == args.rollout]
    if not found:
        raise KeyError(f"rollout {args.rollout!r} is not in {args.bank}; ./efn bank ls {args.bank} lists them")
    output = args.output or Path(f"{args.rollout}.png".replace("/", "_"))
    contact_sheet(found[0], output)
    record = as_dict(found[0].record)
    lines = [f"{name:>16}  {value}" for name, value in record.items()]
    return Output(record | {"contact_sheet": str(output)}, "\n".join([*lines, f"\ncontact sheet: {output}"]))
