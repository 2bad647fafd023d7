"""Picks the subcommand that the first word names, and runs it."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys

from efn_ros import commands
from efn_ros.commands._subcommands import listing, modules

# As in the nodes, before NumPy is imported: small matrices, and processes side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

USAGE = """usage: efn COMMAND [...]      (efn COMMAND --help tells more)

commands of the set-up itself:
  setup           install and build what is missing, and nothing else
  shell           a shell with ros2, colcon and this package on its path
  env             print that environment: eval "$(./efn env)"
"""
RENAMED = {"gather": "collect", "learn": "checkpoints"}  # before version 0.2; the old names go with 0.3


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    known = modules(commands)
    if not words or words[0] in ("-h", "--help", "help"):
        print(f"{USAGE}\ncommands:\n{listing(known)}")
        return 0
    command = words[0]
    if command in RENAMED:
        print(f"efn: {command!r} is now called {RENAMED[command]!r}; the old name goes with 0.3", file=sys.stderr)
        command = RENAMED[command]
    if command not in known:
        near = difflib.get_close_matches(command, known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "./efn --help lists the commands"
        print(f"efn: no command {command!r}: {remedy}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{commands.__name__}.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(prog=f"efn {command}", description=module.__doc__)
    module.add_arguments(parser)
    if getattr(module, "PASSES_ON", False):
        args, rest = parser.parse_known_args(words[1:])
        args.rest = rest
    else:
        args = parser.parse_args(words[1:])
    try:
        return module.run(args) or 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
