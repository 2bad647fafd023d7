# SPDX-License-Identifier: MIT
"""Diagnostics of a node on /diagnostics after REP 107: one status for each part, named `node: part`."""

from __future__ import annotations

import time
from collections import Counter, deque

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

WINDOW = 100  # ticks over which rate and age are computed
RECENT_S = 10.0  # ticks and errors older than this are not shown
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnostics:
    """Counts, rate and age of the messages of a node, its state and its last error.

    Attributes:
        counts: Numbers by name, most of them of events.
        facts: Texts by name, shown with the state.
    """

    def __init__(self, node_name: str) -> None:
        """Begin without ticks and errors."""
        self._name = node_name
        self._ticks: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # (monotonic time, age of its stamp), s
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, str] = {}
        self._error, self._error_at = "", float("-inf")
        self._state = (OK, "")

    def tick(self, age_s: float) -> None:
        """Count one handled message, whose source stamp is `age_s` seconds old."""
        self._ticks.append((time.monotonic(), age_s))

    def error(self, text: str) -> None:
        """Count an error; it is shown for RECENT_S unless another one follows."""
        self.counts["errors"] += 1
        self._error, self._error_at = text, time.monotonic()

    def state(self, level: bytes, text: str) -> None:
        """Set the state of the node; an empty text stands for the state of its lifecycle."""
        self._state = (level, text)

    def message(self, stamp: Time, lifecycle: str) -> DiagnosticArray:
        """Return the message to publish.

        Args:
            stamp: The present time.
            lifecycle: State of the node's lifecycle.
        """
        now = time.monotonic()
        recent = [(at, age) for at, age in self._ticks if now - at < RECENT_S]
        span = now - recent[0][0] if recent else 0.0
        ages = sorted(age for _, age in recent)
        rate = f"{(len(recent) - 1) / span:.2f}" if len(recent) > 1 and span > 0 else "0"
        age = {"median_s": f"{ages[len(ages) // 2]:.4f}", "max_s": f"{ages[-1]:.4f}"} if ages else {}
        failing = now - self._error_at < RECENT_S
        error = self._error if failing else f"none in the last {RECENT_S:g} s"
        counts = {name: str(count) for name, count in sorted(self.counts.items())}
        level, text = self._state
        return DiagnosticArray(
            header=Header(stamp=stamp),
            status=[
                self._status("state", level, text or lifecycle, {"lifecycle": lifecycle, **self.facts}),
                self._status("frequency", OK, f"{rate} Hz", {"rate_hz": rate}),
                self._status("stamps", OK, f"{len(ages)} in the last {RECENT_S:g} s", age),
                self._status("errors", ERROR if failing else OK, error, {"last": self._error, **counts}),
            ],
        )

    def _status(self, part: str, level: bytes, text: str, values: dict[str, str]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=f"{self._name}: {part}",
            message=text,
            hardware_id=self._name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
