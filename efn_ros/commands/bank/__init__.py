# SPDX-License-Identifier: MIT
"""Inspect and maintain an experience bank: list, show, plot, verify, forget, merge, export, import, rebuild."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from efn_ros.commands._subcommands import modules, summary

WITHOUT_CATALOGUE = ("import", "merge", "rebuild")  # actions that need no catalogue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every action: a module with `run(args) -> Output` and, with options, `add_arguments`."""
    actions = parser.add_subparsers(dest="bank_action", required=True, metavar="ACTION")
    for name, path in modules(sys.modules[__name__]).items():
        what = summary(path)
        command = actions.add_parser(name, help=what, description=what)
        command.add_argument("bank", type=Path, metavar="BANK", help="directory of the bank")
        command.add_argument("--json", action="store_true", help="print JSON instead of tables")
        module = importlib.import_module(f"{__name__}.{path.stem}")
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
        command.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    """Run an action; an error of the bank is reported without a traceback."""
    from efn_ros.bank import BankError
    from efn_ros.bank.format.catalogue import CATALOGUE

    args.bank = args.bank.expanduser()
    if args.bank_action not in WITHOUT_CATALOGUE and not (args.bank / CATALOGUE).is_file():
        print(f"efn bank: there is no bank in {args.bank}: it holds no {CATALOGUE}", file=sys.stderr)
        return 2
    try:
        return args.run(args).print(args.json)
    except BrokenPipeError:
        raise
    except (BankError, OSError, ValueError, KeyError) as error:
        print(f"efn bank: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
