# SPDX-License-Identifier: MIT
"""Measured joint states of a robot: their age, and whether the robot rests or its measurement is frozen."""

from __future__ import annotations

import numpy as np

from efn_ros.robots.description import Timeouts

FROZEN_SAMPLES = 5  # equal joint states in a row before they may count as frozen
CLOCK_DRIFT = 1e-4  # s/s by which the robot's clock may fall behind this one


class JointStates:
    """Recent postures, by times of this machine's monotonic clock, s.

    Attributes:
        frozen: Whether the command moved on while no measured position changed.
    """

    def __init__(self, joints: int, timeouts: Timeouts) -> None:
        """Expect postures of a number of joints."""
        self._joints, self._timeouts = joints, timeouts
        self._recent: list[tuple[float, np.ndarray]] = []  # (time, posture) of the last 2 rest_s
        self._stamp_ns, self._received_s, self._min_lag_s = -1, -np.inf, np.inf
        self.begin_motion()

    @property
    def posture(self) -> np.ndarray:
        """The latest posture (J,), rad; an IndexError before the first."""
        return self._recent[-1][1]

    def begin_motion(self) -> None:
        """Judge anew whether the measurement is frozen."""
        self._command_at_change: np.ndarray | None = None  # last command when a measured position last changed
        self.frozen, self._equal = False, 0

    def update(self, posture: np.ndarray, stamp_ns: int, now_s: float, command: np.ndarray, *, moving: bool) -> None:
        """Add a posture.

        One whose stamp does not increase is ignored, unless the stamp went back by more than the time without any:
        then the robot's clock was set back.

        Args:
            posture: Joint positions (J,), rad.
            stamp_ns: Its stamp, of the robot's clock.
            now_s: The present time.
            command: The last command (J,), rad; NaN before the first.
            moving: Whether the robot is commanded.

        Raises:
            ValueError: It is no posture; the message names the joint. The one before stays valid.
        """
        posture = np.asarray(posture, np.float64)
        if posture.shape != (self._joints,):
            raise ValueError(f"joint states hold {posture.size} positions; {self._joints} were expected")
        if not np.isfinite(posture).all():
            joint = int(np.argmin(np.isfinite(posture)))
            raise ValueError(f"the position of joint {joint} is {posture[joint]}")
        if stamp_ns <= self._stamp_ns:
            silent_s, back_s = now_s - self._received_s, (self._stamp_ns - stamp_ns) * 1e-9
            if not self._timeouts.state_s < silent_s < back_s:
                return
            self._min_lag_s = np.inf
        if not moving:
            self._min_lag_s = np.inf
        at_s = self._measured_at(stamp_ns, now_s)
        self._stamp_ns, self._received_s = stamp_ns, now_s
        if not self._recent or self._command_at_change is None or not np.array_equal(posture, self.posture):
            self._command_at_change, self._equal, self.frozen = command, 0, False
        else:
            self._equal += 1
            commanded = (np.abs(command - self._command_at_change) > self._timeouts.frozen_rad).any()
            self.frozen = bool(commanded) and self._equal >= FROZEN_SAMPLES
        self._recent = [entry for entry in self._recent if at_s - entry[0] <= 2 * self._timeouts.rest_s]
        self._recent.append((at_s, posture))

    def _measured_at(self, stamp_ns: int, now_s: float) -> float:
        """Return when a posture was measured, by this clock.

        One that took longer than the fastest since motion began was late by the difference. So the clocks need not
        agree, and may drift apart.
        """
        lag_s = now_s - stamp_ns * 1e-9
        drifted = CLOCK_DRIFT * (now_s - self._received_s) if np.isfinite(self._received_s) else 0.0
        self._min_lag_s = min(lag_s, self._min_lag_s + drifted)
        return now_s - (lag_s - self._min_lag_s)

    def age_s(self, now_s: float) -> float:
        """Return the age of the latest posture, s; infinite before the first."""
        return now_s - self._recent[-1][0] if self._recent else np.inf

    def unrest(self, now_s: float) -> str:
        """Return why the robot is not known to rest, by its first reason; empty if it is."""
        age_s, rest_s = self.age_s(now_s), self._timeouts.rest_s
        if age_s > self._timeouts.state_s:
            return "no joint states were received" if np.isinf(age_s) else f"joint states are {age_s:.3f} s old"
        latest_s = self._recent[-1][0]
        span_s = latest_s - self._recent[0][0]
        if span_s < rest_s:
            return f"joint states were received for only {span_s:.3f} s"
        moved = np.ptp(np.stack([posture for at, posture in self._recent if latest_s - at <= rest_s]), axis=0)
        if (moved > self._timeouts.rest_rad).any():
            joint = int(np.argmax(moved))
            return f"joint {joint} is moving: by {moved[joint]:.4f} rad in {rest_s:g} s"
        return ""
