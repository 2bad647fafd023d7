"""look into an experience bank and take care of it: list, show, plot, verify, forget, merge, export, import, rebuild"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from efn_ros.commands._subcommands import modules, summary

MAKE_A_BANK = ("import", "merge", "rebuild")  # these need no catalogue yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, path in modules(sys.modules[__name__]).items():
        help_ = summary(path)
        command = actions.add_parser(name, help=help_, description=help_)
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON instead of tables")
        module = importlib.import_module(f"{__name__}.{path.stem}")
        module.add_arguments(command)
        command.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    """Run an action; an error of the bank ends it in words."""
    from efn_ros.bank import BankError
    from efn_ros.bank.format.catalogue import CATALOGUE

    args.bank = args.bank.expanduser()
    if args.action not in MAKE_A_BANK and not (args.bank / CATALOGUE).is_file():
        print(f"efn bank: there is no bank in {args.bank}: it holds no {CATALOGUE}", file=sys.stderr)
        return 2
    try:
        return args.run(args)
    except (BankError, OSError, ValueError, KeyError) as error:
        print(f"efn bank: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
