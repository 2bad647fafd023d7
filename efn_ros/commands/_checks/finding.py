# SPDX-License-Identifier: MIT
"""The outcome of one check."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class Status(str, enum.Enum):
    """How a check ended."""

    OK = "OK"
    WARN = "WARN"  # it works, but slower, or not everything does
    FAIL = "FAIL"  # something that a graph needs does not work


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str  # what was checked
    status: Status  # how it ended
    text: str  # what was found, with its value
    remedy: str = ""  # what to do about it; empty for OK


Check = Callable[[], Iterator[Finding]]


def ok(name: str, text: str) -> Finding:
    """Return a finding that needs no remedy."""
    return Finding(name, Status.OK, text)


def warn(name: str, text: str, remedy: str) -> Finding:
    """Return a finding that a graph can live with."""
    return Finding(name, Status.WARN, text, remedy)


def fail(name: str, text: str, remedy: str) -> Finding:
    """Return a finding that a graph cannot live with."""
    return Finding(name, Status.FAIL, text, remedy)


def run_check(name: str, check: Check) -> Iterator[Finding]:
    """Yield the findings of a check; one that raises is a finding too, so that the others still run."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a check looks into what may be broken in any way
        yield fail(name, f"the check failed: {type(error).__name__}: {error}", "report this line as a fault of efn_ros")
