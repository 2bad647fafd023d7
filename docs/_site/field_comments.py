# SPDX-License-Identifier: MIT
"""Documents a dataclass field by the comment beside it, or by the comment lines directly above it."""

from __future__ import annotations

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

import griffe


@cache
def comments(path: Path) -> dict[int, tuple[str, bool]]:
    """Return the comments of a file by line number, and whether each has its line for itself."""
    source = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = (token for token in tokens if token.type == tokenize.COMMENT)
    return {t.start[0]: (t.string.lstrip("# "), not t.line[: t.start[1]].strip()) for t in found}


def comment_of(path: Path, first: int, last: int) -> str:
    """Return the comment that documents the statement from line `first` to `last`."""
    found = comments(path)
    if last in found and not found[last][1]:
        return found[last][0]
    above: list[str] = []
    while (first := first - 1) in found and found[first][1]:
        above.insert(0, found[first][0])
    return " ".join(above)


class FieldComments(griffe.Extension):
    """Gives each attribute that has no docstring the comment beside it."""

    def on_attribute_instance(self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **arguments) -> None:
        """Set the docstring of one attribute."""
        if attr.docstring is None and isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(attr.filepath, Path):
            text = comment_of(attr.filepath, node.lineno, node.end_lineno or node.lineno)
            if text:
                attr.docstring = griffe.Docstring(text, lineno=node.lineno, parent=attr)
