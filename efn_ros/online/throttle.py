"""Background work that leaves the processor to a running episode."""

from __future__ import annotations

import threading
import time

POLL_S = 0.1


class Stopped(Exception):
    """The background work was asked to end."""


class Throttle:
    """Called between two pieces of work: yields to an episode, and raises `Stopped` after `end`.

    Attributes:
        busy: Whether an episode runs.
    """

    def __init__(self, cpu_share: float = 1.0) -> None:
        """cpu_share: of one core, while `busy` is set; 0 waits until it is not."""
        self.busy = False
        self._share, self._end, self._began = cpu_share, threading.Event(), time.monotonic()

    def end(self) -> None:
        """Ask the work to end."""
        self._end.set()

    def wait(self, seconds: float) -> None:
        """Wait, or raise `Stopped` as soon as the end is asked for."""
        ended = self._end.wait(seconds)
        self._began = time.monotonic()
        if ended:
            raise Stopped

    def __call__(self) -> None:
        """Wait for as long as the share asks for, given the work since the last call."""
        worked = time.monotonic() - self._began
        while self.busy and not self._share:
            self.wait(POLL_S)
        self.wait(worked * (1 / self._share - 1) if self.busy else 0.0)
