"""What blocks of results share."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]  # a results file


def source(results: Results, n: int) -> str:
    """Return machine, date, commit and n: the last words of every block."""
    machine = results["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"*{where}; {results['date']}; commit {results['commit']}; n = {n}.*"


def thousands(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}".replace(",", " ")
