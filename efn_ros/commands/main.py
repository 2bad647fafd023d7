# SPDX-License-Identifier: MIT
"""Runs the subcommand that the first argument names."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from types import ModuleType

from efn_ros import commands
from efn_ros.commands._subcommands import help_line, listing, modules

# Before NumPy is imported, as in the nodes: matrices are small, and processes run in parallel.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

USAGE = """usage: efn COMMAND [...]      (efn COMMAND --help describes its options)

commands of the set-up itself:
  setup           install and build what is missing, and nothing else
  shell           start a shell with ros2, colcon and this package on its path
  env             print that environment: eval "$(./efn env)"
"""
RENAMED = {"gather": "collect", "learn": "checkpoints"}  # names before version 0.2


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code; as in a shell 130 after an interrupt, and 141 where the reader of the output ended first.
    """
    words = sys.argv[1:] if argv is None else argv
    known = modules(commands)
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"{USAGE}\ncommands:\n{listing(known)}")
        return 0
    command = RENAMED.get(words[0], words[0])
    if command != words[0]:
        print(f"efn: {words[0]!r} is now called {command!r}; version 0.3 removes the old name", file=sys.stderr)
    if command not in known:
        near = difflib.get_close_matches(command, known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "./efn --help lists the commands"
        print(f"efn: no command {command!r}: {remedy}", file=sys.stderr)
        return 2
    module, parser = load(command)
    args, args.rest = parser.parse_known_args(words[1:])
    if args.rest and not getattr(module, "PASSES_ON", False):
        parser.error(f"unrecognized arguments: {' '.join(args.rest)}")
    try:
        code = module.run(args) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has enough; what is left to print has no reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def load(command: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """Return the module of a command, and its parser with all arguments."""
    module = importlib.import_module(f"{commands.__name__}.{command.replace('-', '_')}")
    details = (module.__doc__ or "").partition("\n")[2].strip()
    parser = argparse.ArgumentParser(prog=f"efn {command}", description=help_line(module.__doc__), epilog=details)
    module.add_arguments(parser)
    return module, parser


if __name__ == "__main__":
    sys.exit(main())
