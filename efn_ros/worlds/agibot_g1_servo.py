# SPDX-License-Identifier: MIT
"""The simulated joints of an AgiBot G1: they follow commanded positions within speed, acceleration and range."""

from __future__ import annotations

from collections import deque

import numpy as np

SPEED, ACCELERATION = 3.0, 6.0  # rad/s and rad/s^2


class Servo:
    """Joints that follow commands after a pure delay, as far as speed, acceleration and range allow.

    Attributes:
        position: float64 (n,), rad.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, start: np.ndarray, *, dt_s: float, delay_steps: int) -> None:
        """Begin at rest.

        Args:
            low: (n,), lower ends of the ranges, rad.
            high: (n,), upper ends.
            start: (n,), rad.
            dt_s: Duration of a step.
            delay_steps: From a command to the motion.
        """
        self.position = start
        self._low, self._high = low, high
        self._max_motion, self._max_change = SPEED * dt_s, ACCELERATION * dt_s**2
        self._motion = np.zeros(len(start))  # rad a step
        self._targets: deque[np.ndarray] = deque(maxlen=delay_steps + 2)  # the previous, the present, those to come
        self.hold()

    def hold(self) -> None:
        """Replace all targets by the present position."""
        self._targets.extend([self.position.copy()] * (self._targets.maxlen or 0))

    def brake(self) -> None:
        """Slow down for one step, as much as the acceleration allows."""
        self._move(np.zeros_like(self._motion))
        self.hold()

    def follow(self, command: np.ndarray | None) -> None:
        """Move for one step; without a command (n,) the latest target stays."""
        self._targets.append(self._targets[-1] if command is None else command)
        before, target = self._targets[0], self._targets[1]
        behind = before - self.position
        # The motion of the target itself and the way to it, as far as the joint can still stop within its range.
        wanted = target - before + np.copysign(self._stoppable(np.abs(behind)), behind)
        room_below, room_above = self.position - self._low, self._high - self.position
        self._move(np.clip(wanted, -self._stoppable(room_below), self._stoppable(room_above)))

    def _stoppable(self, room: np.ndarray) -> np.ndarray:
        """The largest motion, rad a step, that ends after `room` when every step takes off the full acceleration a.

        In m steps it covers m motion - a m (m - 1) / 2, and m is the least with which a m (m + 1) / 2 is enough.
        """
        room = np.maximum(room, 0.0)
        m = np.maximum(np.ceil((np.sqrt(1 + 8 * room / self._max_change) - 1) / 2), 1)
        return room / m + self._max_change * (m - 1) / 2

    def _move(self, wanted: np.ndarray) -> None:
        motion = np.clip(
            np.clip(wanted, -self._max_motion, self._max_motion),
            self._motion - self._max_change,
            self._motion + self._max_change,
        )
        reached = np.clip(self.position + motion, self._low, self._high)  # against rounding
        self._motion, self.position = reached - self.position, reached
