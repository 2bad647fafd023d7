# SPDX-License-Identifier: MIT
"""Stream of commands at the robot's rate from action chunks at the policy's rate, limited in jerk.

Each command is one step of a trajectory that Ruckig computes again, from the command before to the present target of
the chunk. It is sent only if the motion from there to a stop stays in the workspace too; otherwise the robot continues
on the motion to a stop that was checked before. So a valid next command always exists, whatever the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Ruckig, RuckigError, Synchronization, Trajectory

from efn_ros.robots.motion import MotionState, accept_chunk

FOLLOW_SHARE = 0.9  # share of the velocity limit at which a target is followed; the rest is for catching up
LEAD = 0.75  # largest share of `tracking` by which a command leads the measured posture; the rest is for braking
IsFree = Callable[[np.ndarray], np.ndarray]  # postures (N, J) -> whether each may be commanded, bool (N,)


class TrackingError(RuntimeError):
    """The robot is not where it was commanded to be: no command is near enough to it."""


@dataclass(frozen=True)
class JointLimits:
    """Bounds of J joints, float64 (J,) each, finite.

    Raises:
        ValueError: A bound has another size, is not finite, or is not positive; or `low` is not below `high`.
    """

    low: np.ndarray  # position, rad
    high: np.ndarray  # position, rad
    velocity: np.ndarray  # rad/s
    acceleration: np.ndarray  # rad/s^2
    jerk: np.ndarray  # rad/s^3
    tracking: np.ndarray  # |command - measured|, rad
    reject: np.ndarray  # jump of a target that is refused and not clipped, rad

    def __post_init__(self) -> None:
        joints = np.shape(self.low) or (1,)
        for field in fields(self):
            bound = np.asarray(getattr(self, field.name), np.float64)
            if bound.ndim != 1 or bound.shape != joints or not np.isfinite(bound).all():
                raise ValueError(f"limit {field.name!r} is {bound.tolist()}; it must be {joints[0]} finite numbers")
            if field.name not in ("low", "high") and (bound <= 0).any():
                raise ValueError(f"limit {field.name!r} is {bound.tolist()}; every entry must be above 0")
            object.__setattr__(self, field.name, bound)
        if not (self.low < self.high).all():
            raise ValueError(f"limit 'low' {self.low.tolist()} must lie below 'high' {self.high.tolist()}")


class Stream:
    """Commands of J joints, one for every call of `command`.

    Attributes:
        limits: Bounds of every command.
        period_s: Time between two commands, s.
        posture: The last command (J,), rad; NaN before the start.
    """

    def __init__(self, limits: JointLimits, command_rate_hz: float, is_free: IsFree | None = None) -> None:
        """Create a stream that is not started.

        Args:
            limits: Bounds of every command.
            command_rate_hz: Commands a second.
            is_free: Which postures may be commanded; None: all. A motion to a stop is checked at the very postures
                that would be sent.

        Raises:
            ValueError: The rate is not positive and finite.
        """
        if not 0 < command_rate_hz < np.inf:
            raise ValueError(f"command_rate_hz is {command_rate_hz}; it must be positive and finite")
        self.limits, self._is_free, self.period_s = limits, is_free, 1 / command_rate_hz
        joints = len(limits.low)
        self._generator, self._next = Ruckig(joints, self.period_s), OutputParameter(joints)
        self._tracking, self._braking = InputParameter(joints), InputParameter(joints)
        self._tracking.target_position = self._tracking.target_velocity = np.zeros(joints)
        self._braking.control_interface = ControlInterface.Velocity
        for motion in (self._tracking, self._braking):
            motion.max_acceleration, motion.max_jerk = limits.acceleration, limits.jerk
            motion.synchronization = Synchronization.No
        self._chunk: np.ndarray | None = None
        self.posture = np.full(joints, np.nan)
        self.assume_rest()

    def start(self, measured: np.ndarray) -> None:
        """Be at rest at the measured posture (J,), which is the next command.

        Raises:
            ValueError: The posture is beyond a limit; the message names the joint.
        """
        measured = np.asarray(measured, np.float64)
        outside = np.flatnonzero(~((self.limits.low <= measured) & (measured <= self.limits.high)))
        if len(outside):
            j = outside[0]
            raise ValueError(
                f"joint {j} is measured at {measured[j]:.4f} rad, outside {self.limits.low[j]:.4f} to "
                f"{self.limits.high[j]:.4f}; move it back by hand or by teleoperation"
            )
        if self._is_free is not None and not self._is_free(measured[None])[0]:
            raise ValueError("the measured posture is outside the workspace; move the arms back by hand")
        self.posture, self._chunk, self._first = measured.copy(), None, True
        self.assume_rest()

    def assume_rest(self) -> None:
        """Continue from rest at the last posture: nothing was sent for so long that the robot stopped there."""
        self._speed = self._acceleration = np.zeros(len(self.posture))
        self._stop = MotionState(self.posture[None], self._speed[None], self._acceleration[None])

    def follow(self, chunk: np.ndarray, rate_hz: float, began_s: float) -> None:
        """Follow targets from now on.

        Args:
            chunk: Targets (H, J), rad.
            rate_hz: Rows of the chunk a second.
            began_s: When the first row is due, s.

        Raises:
            RefusedActionError: The targets are not finite, have another shape, or jump beyond `reject`; the stream is
                unchanged.
        """
        c, chunk = self.limits, np.asarray(chunk, np.float64)
        self._chunk = accept_chunk(chunk, self.posture, c.low, c.high, c.reject, "target")
        self._rate_hz, self._began_s = rate_hz, began_s

    def hold(self) -> None:
        """Come to rest and stay."""
        self._chunk = None

    @property
    def at_rest(self) -> bool:
        """Whether the last command ended all motion."""
        return len(self._stop.position) == 1

    def command(self, now_s: float, measured: np.ndarray) -> np.ndarray:
        """Return the next posture to send.

        Args:
            now_s: The present time.
            measured: Joint positions (J,), rad.

        Returns:
            The posture (J,), rad.

        Raises:
            TrackingError: No next posture is within `tracking` of the measured one; the message names the joint, and
                nothing may be sent.
        """
        chunk, self._first = None if self._first else self._chunk, False
        step = None if chunk is None else self._track(chunk, now_s, measured)
        stop = None
        if step is not None and not (np.abs(step.position - measured) > self.limits.tracking).any():
            stop = self._stop_from(step)
        if step is None or stop is None:
            step = self._next_of_stop()
        else:
            self._stop = stop
        apart = np.abs(step.position - measured)
        if (apart > self.limits.tracking).any():
            j = int(np.argmax(apart - self.limits.tracking))
            raise TrackingError(
                f"joint {j} is measured {apart[j]:.4f} rad from its command, beyond {self.limits.tracking[j]:.4f}"
            )
        self.posture, self._speed, self._acceleration = step
        return self.posture

    def _track(self, chunk: np.ndarray, now_s: float, measured: np.ndarray) -> MotionState | None:
        """Return one step towards the present target, which leads the robot by at most LEAD.

        It is planned in the frame of the moving target, so that the target is reached and then followed without lag.
        None if the solver finds no step.
        """
        aim, drift = self._target(chunk, now_s)
        lead, fastest = LEAD * self.limits.tracking, self.limits.velocity
        target = np.clip(aim, measured - lead, measured + lead).clip(self.limits.low, self.limits.high)
        drift = np.where(target == aim, np.clip(drift, -FOLLOW_SHARE * fastest, FOLLOW_SHARE * fastest), 0.0)
        motion, moved = self._tracking, drift * self.period_s
        motion.max_velocity, motion.min_velocity = fastest - drift, -fastest - drift
        motion.current_position, motion.current_velocity = self.posture + moved - target, self._speed - drift
        motion.current_acceleration = self._acceleration
        try:
            self._generator.update(motion, self._next)
        except RuckigError:  # rare, and only with some limits
            return None
        step = self._next
        return MotionState(target + step.new_position, drift + step.new_velocity, np.array(step.new_acceleration))

    def _target(self, chunk: np.ndarray, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the present position and velocity of a chunk, (J,) each; after its end it rests."""
        at = max((now_s - self._began_s) * self._rate_hz, 0.0)
        row = int(min(at, len(chunk) - 1))
        if row == len(chunk) - 1:
            return chunk[row], np.zeros(len(chunk[row]))
        slope = chunk[row + 1] - chunk[row]
        return chunk[row] + (at - row) * slope, slope * self._rate_hz

    def _next_of_stop(self) -> MotionState:
        """Return the next step of the motion to a stop that was checked last."""
        if not self.at_rest:
            self._stop = MotionState(*(part[1:] for part in self._stop))
        return MotionState(*(part[0] for part in self._stop))

    def _stop_from(self, state: MotionState) -> MotionState | None:
        """Return the motion (N, J) from a state to a stop, as it would be sent; None if it is not free."""
        motion, trajectory = self._braking, Trajectory(len(state.position))
        motion.current_position, motion.current_velocity, motion.current_acceleration = state
        try:
            Ruckig(len(state.position)).calculate(motion, trajectory)
        except RuckigError:
            return None
        times = np.append(np.arange(0, trajectory.duration, self.period_s), trajectory.duration)
        stop = MotionState(*(np.array(part) for part in zip(*map(trajectory.at_time, times), strict=True)))
        within = (self.limits.low <= stop.position).all() and (stop.position <= self.limits.high).all()
        return stop if within and (self._is_free is None or self._is_free(stop.position).all()) else None
