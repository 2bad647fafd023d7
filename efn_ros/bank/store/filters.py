# SPDX-License-Identifier: MIT
"""Filters of rollouts as text: `task=push*`, `outcome=failure`, `date>=2026-11-01`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase

from efn_ros.bank.format.catalogue import RolloutRecord

NANOSECONDS = 10**9
ORDERED: dict[str, Callable] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
COMPARISONS = {**ORDERED, "=": operator.eq, "!=": operator.ne}
OPERATORS = ("!=", *ORDERED, "=")  # longest first
TEXTS: dict[str, Callable[[RolloutRecord], str]] = {
    "id": lambda r: r.id,
    "task": lambda r: r.task,
    "instruction": lambda r: r.instruction,
    "robot": lambda r: r.robot,
    "policy": lambda r: r.policy,
    "outcome": lambda r: r.outcome.name.lower(),
    "explored": lambda r: ",".join(sorted(r.explored)),
}
NUMBERS = ("seed", "length", "decisions", "revision")
FIELDS = (*TEXTS, *NUMBERS, "date")


@dataclass(frozen=True)
class RolloutFilter:
    """A comparison of one field of a record of the catalogue.

    A text is compared as a whole and as a pattern with * and ?; commas separate alternatives. A date is in UTC and is
    compared as far as it is given: `date=2026-11` matches all of that month.
    """

    field: str  # one of FIELDS
    operator: str  # one of OPERATORS
    value: str  # to compare with

    @classmethod
    def parse(cls, text: str) -> RolloutFilter:
        """Read a filter.

        Raises:
            ValueError: The text is no filter; the message names what is expected.
        """
        match = re.fullmatch(rf"\s*(\w+)\s*({'|'.join(OPERATORS)})\s*(.*?)\s*", text, re.DOTALL)
        if not match:
            raise ValueError(f"{text!r} is no filter; write FIELD, one of {' '.join(OPERATORS)}, and VALUE")
        field, sign, value = match.groups()
        if field not in FIELDS:
            raise ValueError(f"{text!r} names {field!r}; a rollout has {', '.join(FIELDS)}")
        if field in TEXTS and sign in ORDERED:
            raise ValueError(f"{text!r} orders by {field}; only {', '.join((*NUMBERS, 'date'))} can be ordered")
        if field in NUMBERS and not re.fullmatch(r"-?\d+", value):
            raise ValueError(f"{text!r} compares {field} with {value!r}; it is a whole number")
        if field == "date" and not re.fullmatch(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?", value):
            raise ValueError(f"{text!r} names the date {value!r}; write it as 2026-11-22 or 2026-11-22T09:30")
        return cls(field, sign, value)

    def __call__(self, record: RolloutRecord) -> bool:
        """Return whether a record passes."""
        if self.field in TEXTS:
            text = TEXTS[self.field](record)
            patterns = [value.replace("[", "[[]") for value in self.value.split(",")]  # a bracket means itself
            matches = text == self.value or any(fnmatchcase(text, pattern) for pattern in patterns)
            return matches == (self.operator == "=")
        if self.field == "date":
            actual, expected = date_of(record)[: len(self.value)], self.value
        else:
            actual, expected = getattr(record, self.field), int(self.value)
        return COMPARISONS[self.operator](actual, expected)


def date_of(record: RolloutRecord) -> str:
    """Return the UTC time at which the episode began, such as 2026-11-22T09:30:05."""
    began = datetime.fromtimestamp(record.start_ns // NANOSECONDS, timezone.utc)
    return began.strftime("%Y-%m-%dT%H:%M:%S")


def matching(records: Iterable[RolloutRecord], filters: Iterable[str]) -> list[RolloutRecord]:
    """Return the records that pass every filter.

    Raises:
        ValueError: A text is no filter.
    """
    parsed = [RolloutFilter.parse(text) for text in filters]
    return [record for record in records if all(passes(record) for passes in parsed)]
