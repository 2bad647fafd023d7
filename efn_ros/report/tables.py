# SPDX-License-Identifier: MIT
"""Tables in Markdown, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with aligned columns, the first to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]  # a rule is at least "-:" wide
    rule = ["-" * (width - 1) + (":" if i else "-") for i, width in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        padded = (cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [cells[0], rule, *cells[1:]]))


def percent(share: float) -> str:
    """Return a fraction of 1 in percent."""
    return f"{100 * share:.0f} %"


def milliseconds(seconds: float) -> str:
    """Return a duration in milliseconds, without its unit."""
    return f"{1000 * seconds:.2f}"
