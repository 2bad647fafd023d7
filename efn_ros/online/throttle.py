# SPDX-License-Identifier: MIT
"""Background work that leaves the processor to a running episode."""

from __future__ import annotations

import threading
import time

POLL_S = 0.1


class Stopped(Exception):
    """The background work was asked to end."""


class Throttle:
    """Limits the processor time of background work, which calls it between two pieces of work.

    Attributes:
        busy: Whether an episode runs.
    """

    def __init__(self, cpu_share: float = 1.0) -> None:
        """Set the share of one core to use while `busy`; 0 waits until the episode has ended."""
        self.busy = False
        self._share, self._end, self._resumed = cpu_share, threading.Event(), time.monotonic()

    def end(self) -> None:
        """Ask the work to end."""
        self._end.set()

    def wait(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: The work was asked to end, before or meanwhile.
        """
        ended = self._end.wait(seconds)
        self._resumed = time.monotonic()
        if ended:
            raise Stopped

    def __call__(self) -> None:
        """Wait so that the work since the last call takes no more than its share.

        Raises:
            Stopped: The work was asked to end.
        """
        worked = time.monotonic() - self._resumed
        while self.busy and not self._share:
            self.wait(POLL_S)
        self.wait(worked * (1 / self._share - 1) if self.busy else 0.0)
