"""Background work that leaves the processor to a running episode."""

from __future__ import annotations

import threading
import time


class Stopped(Exception):
    """The learner was asked to end."""


class Throttle:
    """Called between two pieces of work: leaves the machine to an episode, and raises `Stopped` after `end`.

    share: of one core, while `busy` is set; 0 waits until it is not.
    """

    LOOK_S = 0.1

    def __init__(self, share: float = 1.0) -> None:
        self.busy = False
        self._share, self._end, self._began = share, threading.Event(), time.monotonic()

    def end(self) -> None:
        self._end.set()

    def wait(self, seconds: float) -> None:
        ended = self._end.wait(seconds)
        self._began = time.monotonic()
        if ended:
            raise Stopped

    def __call__(self) -> None:
        worked = time.monotonic() - self._began
        while self.busy and not self._share:
            self.wait(self.LOOK_S)
        self.wait(worked * (1 / self._share - 1) if self.busy else 0.0)
