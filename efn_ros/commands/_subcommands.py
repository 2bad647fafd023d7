# SPDX-License-Identifier: MIT
"""Commands as modules of a package: their names and their help, without importing them."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType


def modules(package: ModuleType) -> dict[str, Path]:
    """Return the names of a package's commands, as typed, and the file of each."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "main" and not module.name.startswith("_"):
            path = Path(package.__path__[0]) / module.name
            file = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
            found[module.name.rstrip("_").replace("_", "-")] = file
    return found


def help_line(docstring: str | None) -> str:
    """Return the first line of a docstring in the form of argparse: in lower case and without a full stop."""
    line = (docstring or "").partition("\n")[0].removesuffix(".")
    return line[:1].lower() + line[1:]


def summary(path: Path) -> str:
    """Return the help of a command without importing it, because torch and ROS 2 load slowly."""
    return help_line(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def listing(commands: Mapping[str, Path]) -> str:
    """Return a line of help for each command."""
    return "\n".join(f"  {name:<15} {summary(path)}" for name, path in sorted(commands.items()))
