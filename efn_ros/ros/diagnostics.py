"""What a node says of itself on /diagnostics, after REP-107: one status a part, `node: part`."""

from __future__ import annotations

import time
from collections import Counter, deque

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

WINDOW = 100  # ticks that rate and age are taken over
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnostics:
    """Counts, rate and age of what a node handles, and the last error it met."""

    def __init__(self, node_name: str) -> None:
        self._name = node_name
        self._ticks: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # (monotonic time, age of its stamp in s)
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, str] = {}  # shown with the state
        self._error, self._error_at = "", float("-inf")
        self._state = (OK, "")

    def tick(self, age_s: float) -> None:
        """One item was handled whose source stamp was `age_s` seconds old."""
        self._ticks.append((time.monotonic(), age_s))

    def error(self, text: str) -> None:
        """Something was refused; shown as an error until ten seconds have passed without another."""
        self.counts["errors"] += 1
        self._error, self._error_at = text, time.monotonic()

    def state(self, level: bytes, text: str) -> None:
        """The state that the node is in, until it says otherwise."""
        self._state = (level, text)

    def message(self, stamp, lifecycle: str) -> DiagnosticArray:
        now = time.monotonic()
        recent = [(at, age) for at, age in self._ticks if now - at < 10.0]
        span = now - recent[0][0] if recent else 0.0
        ages = sorted(age for _, age in recent)
        rate = [("rate_hz", f"{(len(recent) - 1) / span:.2f}" if len(recent) > 1 and span > 0 else "0")]
        age = [("median_s", f"{ages[len(ages) // 2]:.4f}"), ("max_s", f"{ages[-1]:.4f}")] if ages else []
        fresh = now - self._error_at < 10.0
        level, text = self._state
        return DiagnosticArray(
            header=_header(stamp),
            status=[
                self._status("state", level, text or lifecycle, [("lifecycle", lifecycle), *self.facts.items()]),
                self._status("frequency", OK, f"{rate[0][1]} Hz", rate),
                self._status("stamps", OK, f"{len(ages)} in the last 10 s", age),
                self._status(
                    "errors",
                    ERROR if fresh else OK,
                    self._error if fresh else "none in the last 10 s",
                    [("last", self._error), *((k, str(v)) for k, v in sorted(self.counts.items()))],
                ),
            ],
        )

    def _status(self, part: str, level: bytes, text: str, values: list[tuple[str, str]]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=f"{self._name}: {part}",
            message=text,
            hardware_id=self._name,
            values=[KeyValue(key=key, value=value) for key, value in values],
        )


def _header(stamp):
    from std_msgs.msg import Header

    return Header(stamp=stamp)
