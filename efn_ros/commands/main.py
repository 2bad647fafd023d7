"""Picks the subcommand that the first word names, and runs it."""

import argparse
import ast
import difflib
import importlib
import os
import pkgutil
import sys
from pathlib import Path

from efn_ros import commands

# As in the nodes, before NumPy is imported: small matrices, and processes side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

USAGE = """usage: efn COMMAND [...]      (efn COMMAND --help tells more)

commands of the set-up itself:
  setup           install and build what is missing, and nothing else
  shell           a shell with ros2, colcon and this package on its path
  env             print that environment: eval "$(./efn env)"
"""


def names() -> dict[str, Path]:
    """Command names as typed, and the module file of each."""
    return {
        module.name.replace("_", "-"): Path(module.module_finder.path) / f"{module.name}.py"
        for module in pkgutil.iter_modules(commands.__path__)
        if module.name != "main" and not module.name.startswith("_")
    }


def summary(path: Path) -> str:
    """First line of a module's docstring, without importing it: help must not wait for torch or ROS 2."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def main(argv: list[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    words = sys.argv[1:] if argv is None else argv
    known = names()
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE + "\ncommands:")
        for name, path in sorted(known.items()):
            print(f"  {name:<15} {summary(path)}")
        return 0
    if words[0] not in known:
        near = difflib.get_close_matches(words[0], known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else "./efn --help lists the commands"
        print(f"efn: no command {words[0]!r}: {meant}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"efn_ros.commands.{words[0].replace('-', '_')}")
    parser = argparse.ArgumentParser(prog=f"efn {words[0]}", description=module.__doc__)
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
