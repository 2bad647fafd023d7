"""Tables in Markdown, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with aligned columns; everything but the first column to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(2, *(len(row[i]) for row in cells)) for i in range(len(header))]  # a rule is at least "-:" wide

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
