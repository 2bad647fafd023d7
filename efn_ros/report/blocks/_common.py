# SPDX-License-Identifier: MIT
"""Functions that all blocks share."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]  # a results file


def source(results: Results, n: int) -> str:
    """Return the last line of every block: machine, date, commit and n."""
    machine = results["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"*{where}; {results['date']}; commit {results['commit']}; n = {n}.*"


def thousands(number: int) -> str:
    """Return a number with its thousands separated."""
    return f"{number:,}".replace(",", " ")
