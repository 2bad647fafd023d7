"""Commands as modules of a package: their names, and their one line of help without importing them."""

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
        if module.name == "main" or module.name.startswith("_"):
            continue
        place = Path(package.__path__[0]) / module.name
        name = module.name.rstrip("_").replace("_", "-")
        found[name] = place / "__init__.py" if module.ispkg else place.with_suffix(".py")
    return found


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, without importing it: help must not wait for torch or ROS 2."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def listing(commands: Mapping[str, Path]) -> str:
    """Return a line of help for each command."""
    return "\n".join(f"  {name:<15} {summary(path)}" for name, path in sorted(commands.items()))
