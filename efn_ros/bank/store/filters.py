"""Filters of rollouts, as they are typed: `task=push*`, `outcome=failure`, `date>=2026-11-01`."""

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
    """A comparison that lets a record of the catalogue pass or not.

    Texts are compared as a whole, and as patterns (* and ?), of which a list with commas means any; numbers in order. A
    date is compared as far as it is written, in UTC: `date=2026-11` means all of that month.
    """

    field: str  # one of FIELDS
    operator: str  # one of OPERATORS
    value: str  # as typed

    @classmethod
    def parse(cls, text: str) -> RolloutFilter:
        """Read a filter.

        Raises:
            ValueError: It is none; the message names the fields that there are.
        """
        match = re.fullmatch(rf"\s*(\w+)\s*({'|'.join(OPERATORS)})\s*(.*?)\s*", text, re.DOTALL)
        if not match:
            raise ValueError(f"{text!r} is no filter; write FIELD, one of {' '.join(OPERATORS)}, and VALUE")
        field, sign, value = match.groups()
        if field not in FIELDS:
            raise ValueError(f"{text!r} names {field!r}; a rollout has {', '.join(FIELDS)}")
        if field in TEXTS and sign in ORDERED:
            raise ValueError(f"{text!r} puts {field} in order; only {', '.join((*NUMBERS, 'date'))} have one")
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
            met = text == self.value or any(fnmatchcase(text, pattern) for pattern in patterns)
            return met == (self.operator == "=")
        if self.field == "date":
            found, asked = date_of(record)[: len(self.value)], self.value
        else:
            found, asked = getattr(record, self.field), int(self.value)
        return {**ORDERED, "=": operator.eq, "!=": operator.ne}[self.operator](found, asked)


def date_of(record: RolloutRecord) -> str:
    """Return when the episode began, in UTC, to the second: 2026-11-22T09:30:05."""
    began = datetime.fromtimestamp(record.start_ns // NANOSECONDS, timezone.utc)
    return began.strftime("%Y-%m-%dT%H:%M:%S")


def matching(records: Iterable[RolloutRecord], filters: Iterable[str]) -> list[RolloutRecord]:
    """Return the records that pass every filter; all of them without any.

    Raises:
        ValueError: A text is no filter.
    """
    parsed = [RolloutFilter.parse(text) for text in filters]
    return [record for record in records if all(passes(record) for passes in parsed)]
