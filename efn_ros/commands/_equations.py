# SPDX-License-Identifier: MIT
"""The page that leads from each equation of the paper to its code, made from `Source: equation (n).` in docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LAST = 58  # number of the paper's last equation
SOURCE = re.compile(r"^ *Source:(.*?)(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
# Equations that no function computes, and why.
WITHOUT_CODE = {
    21: "(7), written with the network's inputs.",
    22: "The distance that supervised training through the environment would need; the paper argues against it.",
    23: "Its gradient, which no environment gives.",
    24: "The expected return that (10)-(13) maximise.",
    25: "(13), to be maximised.",
    26: "Shapes of tensors.",
    27: "The composition that (38) and (39) make concrete.",
    40: "Reward of a training run that failed, see (20).",
    41: "The spread of its rewards.",
    42: "A normalisation that made that run worse.",
    43: "Why a reference that changes at each step breaks learning; `reference_margin` keeps it.",
    44: "Shapes of tensors.",
    45: "Shapes of tensors.",
    49: "The problem that (51) and (52) solve.",
    50: "The entropy in (49).",
    54: "A property of the transport plan; a test holds it.",
    57: "The limit of (49) without entropy; a test holds it.",
}


@dataclass(frozen=True)
class Place:
    """Where an equation is computed."""

    module: str  # dotted name
    name: str  # qualified name of the function or class
    summary: str  # first line of its docstring
    path: str  # of the file, relative to the repository
    line: int  # where it begins


def places(root: Path) -> dict[int, list[Place]]:
    """Return, for each equation that a docstring names as its source, where it is computed."""
    found: dict[int, list[Place]] = {}
    for path in sorted((root / "efn_ros").rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for name, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) or ""
            for number in equations(text):
                summary = text.splitlines()[0]
                place = Place(module, name, summary, str(path.relative_to(root)), node.lineno)
                found.setdefault(number, []).append(place)
    return found


def equations(docstring: str) -> list[int]:
    """Return the numbers in `Source: equations (4), (5).` of a docstring."""
    sources = [text for text in SOURCE.findall(docstring) if re.match(r"\s*[Ee]quations? \(", text)]
    return [int(number) for text in sources for number in re.findall(r"\((\d+)\)", text)]


def page(root: Path, generated: str) -> str:
    """Return the page in Markdown.

    Args:
        root: Of the checkout.
        generated: First line, which says that the page is generated.

    Raises:
        ValueError: An equation has neither code nor a reason why not, or both.
    """
    found = places(root)
    for number in range(1, LAST + 1):
        if (number in found) == (number in WITHOUT_CODE):
            what = "code and an entry" if number in found else "neither code nor an entry"
            raise ValueError(
                f"equation ({number}) has {what} in WITHOUT_CODE of {Path(__file__).name}; keep one of them"
            )
    rows = []
    for number in range(1, LAST + 1):
        for place in found.get(number, []):
            rows.append(f"| ({number}) | [`{place.module}:{place.name}`](../{place.path}) | {place.summary} |")
        if number in WITHOUT_CODE:
            rows.append(f"| ({number}) | no code | {WITHOUT_CODE[number]} |")
    text = [
        generated,
        "# Equations",
        'Numbers are those of "Dejavu: Post-Deployment Learning for Embodied Agents via Experience Feedback" '
        "([arXiv 2510.10181](https://arxiv.org/abs/2510.10181)). Where the code differs from the paper stands in "
        "[Differences from the paper](reference/paper.md).",
        "\n".join(["| equation | where | what |", "| --- | --- | --- |", *rows]),
    ]
    return "\n\n".join(text) + "\n"


def _definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node, f"{prefix}{node.name}.")
