"""one rollout, and a contact sheet of its frames and actions"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efn_ros.commands.bank._common import as_dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("rollout", help="its identifier")
    parser.add_argument("--output", type=Path, metavar="PNG", help="of the contact sheet; default: the identifier")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from efn_ros.bank import BankReader
    from efn_ros.report.contact_sheet import contact_sheet

    found = [r for r in BankReader(args.bank).snapshot().rollouts if r.record.id == args.rollout]
    if not found:
        raise KeyError(f"rollout {args.rollout!r} is not in {args.bank}; ./efn bank ls {args.bank} lists them")
    output = args.output or Path(f"{args.rollout}.png".replace("/", "_"))
    contact_sheet(found[0], output)
    record = as_dict(found[0].record)
    if args.json:
        print(json.dumps(record | {"contact_sheet": str(output)}, indent=1))
    else:
        for name, value in record.items():
            print(f"{name:>16}  {value}")
        print(f"\ncontact sheet: {output}")
    return 0
