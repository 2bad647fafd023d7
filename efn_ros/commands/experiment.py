# SPDX-License-Identifier: MIT
"""Train with a method that has shown no gain yet: sac, latent_residual (see docs/experiments)."""

from __future__ import annotations

import argparse
import importlib.util

from efn_ros.commands._subcommands import help_line
from efn_ros.runtime.experiments import PACKAGE, experiments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every experiment that has a command."""
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for name in experiments():
        if importlib.util.find_spec(f"{PACKAGE}.{name}.command"):
            module = importlib.import_module(f"{PACKAGE}.{name}.command")
            what = help_line(module.__doc__)
            command = commands.add_parser(name, help=what, description=what)
            module.add_arguments(command)
            command.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the command of an experiment."""
    return args.run(args)
