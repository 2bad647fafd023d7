"""From chunks at the policy's rate to commands at the robot's: limited in jerk, and never beyond where one can stop.

Each command is one step of a trajectory that Ruckig makes anew, from the command before it to where the chunk is by
now. It is let out only if the way to a standstill from there is free as well; else the robot goes on along the way to a
standstill that was found to be free before. So whatever is asked for, the next command to be sent is always at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Ruckig, RuckigError, Synchronization, Trajectory

from efn_ros.robots.motion import RefusedActionError

FOLLOWED = 0.9  # share of the velocity limit at which a target is followed; the rest is for catching up
LEAD = 0.75  # share of `tracking` that a command aims beyond what is measured at most: the rest is for slowing down
Free = Callable[[np.ndarray], np.ndarray]


class TrackingError(RuntimeError):
    """The robot is not where it was told to be: nothing that could be commanded is near enough to it."""


@dataclass(frozen=True)
class JointLimits:
    """Bounds of J joints, float64 (J,), finite: rad, rad/s, rad/s^2, rad/s^3. tracking: of |command - measured|, rad.
    reject: jump of the policy's targets that is refused and not clipped, rad."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    tracking: np.ndarray
    reject: np.ndarray

    def __post_init__(self) -> None:
        joints = np.shape(self.low)
        for field in fields(self):
            bound = np.asarray(getattr(self, field.name), np.float64)
            if bound.ndim != 1 or bound.shape != joints or not np.isfinite(bound).all():
                raise ValueError(f"limit {field.name!r} is {bound.tolist()}; it must be {joints} finite numbers")
            if field.name not in ("low", "high") and (bound <= 0).any():
                raise ValueError(f"limit {field.name!r} is {bound.tolist()}; every entry must be above 0")
            object.__setattr__(self, field.name, bound)
        if not (self.low < self.high).all():
            raise ValueError(f"limit 'low' {self.low.tolist()} must lie below 'high' {self.high.tolist()}")


class Stream:
    """Commands of J joints, one for every call of `command`.

    free: of postures (N, J) which may be commanded, bool (N,); None: all. Between postures of a way to a standstill lie
    as many seconds as between commands, so those that are asked about are those that would be sent.
    """

    def __init__(self, limits: JointLimits, command_rate_hz: float, free: Free | None = None) -> None:
        if not 0 < command_rate_hz < np.inf:
            raise ValueError(f"command_rate_hz is {command_rate_hz}; it must be positive and finite")
        self.limits, self._free, self.period_s = limits, free, 1 / command_rate_hz
        joints = len(limits.low)
        self._generator, self._goal, self._step = (
            Ruckig(joints, self.period_s),
            InputParameter(joints),
            OutputParameter(joints),
        )
        self._goal.target_position = self._goal.target_velocity = np.zeros(joints)
        self._brake = InputParameter(joints)
        self._brake.control_interface = ControlInterface.Velocity
        for given in (self._goal, self._brake):
            given.max_acceleration, given.max_jerk = limits.acceleration, limits.jerk
            given.synchronization = Synchronization.No
        self._chunk: np.ndarray | None = None
        self.posture: np.ndarray | None = None

    def start(self, measured: np.ndarray) -> None:
        """Stand still at the measured posture (J,), which is the next command. Raises ValueError, naming the joint,
        where that is beyond a limit."""
        measured = np.asarray(measured, np.float64)
        outside = np.flatnonzero(~((self.limits.low <= measured) & (measured <= self.limits.high)))
        if len(outside):
            j = outside[0]
            raise ValueError(
                f"joint {j} is measured at {measured[j]:.4f} rad, outside {self.limits.low[j]:.4f} to "
                f"{self.limits.high[j]:.4f}; move it back by hand or by teleoperation"
            )
        if self._free is not None and not self._free(measured[None])[0]:
            raise ValueError("the measured posture is outside the workspace; move the arms back by hand")
        self.posture, self._chunk, self._first = measured.copy(), None, True
        self.stand()

    def stand(self) -> None:
        """The robot was sent nothing for so long that it stands still at the last posture."""
        self._speed = self._acceleration = np.zeros(len(self.posture))
        self._rest = self.posture[None], self._speed[None], self._acceleration[None]

    def follow(self, chunk: np.ndarray, rate_hz: float, began_s: float) -> None:
        """From now on follow the targets (H, J), rad, of which the first is due at `began_s`. Raises RefusedActionError
        for NaN, Inf, another shape, and for a jump beyond `reject`; then nothing has changed."""
        chunk = np.asarray(chunk, np.float64)
        if chunk.ndim != 2 or chunk.shape[1] != len(self.limits.low) or not len(chunk):
            raise RefusedActionError(f"targets have shape {chunk.shape}; (H >= 1, {len(self.limits.low)}) was expected")
        if not np.isfinite(chunk).all():
            row, joint = np.argwhere(~np.isfinite(chunk))[0]
            raise RefusedActionError(f"target[{row}][{joint}] is {chunk[row, joint]}")
        clipped = np.clip(chunk, self.limits.low, self.limits.high)
        jumps = np.abs(np.diff(clipped, axis=0, prepend=self.posture[None]))
        if (jumps > self.limits.reject).any():
            row, joint = np.argwhere(jumps > self.limits.reject)[0]
            raise RefusedActionError(
                f"target[{row}][{joint}] jumps by {jumps[row, joint]:.4f} rad, beyond {self.limits.reject[joint]:.4f}"
            )
        self._chunk, self._rate_hz, self._began_s = clipped, rate_hz, began_s

    def hold(self) -> None:
        """Come to a standstill and stay."""
        self._chunk = None

    @property
    def at_rest(self) -> bool:
        return len(self._rest[0]) == 1

    def command(self, now_s: float, measured: np.ndarray) -> np.ndarray:
        """The next posture (J,), rad. Raises TrackingError, naming the joint, where every next one is further from the
        measured than `tracking`; nothing may be sent then."""
        moving, self._first = self._chunk is not None and not self._first, False
        candidate = self._towards(now_s, measured) if moving else None
        if candidate is None or (np.abs(candidate[0] - measured) > self.limits.tracking).any():
            candidate = self._along_rest()
        else:
            rest = self._way_to_rest(*candidate)
            if rest is None:
                candidate = self._along_rest()
            else:
                self._rest = rest
        apart = np.abs(candidate[0] - measured)
        if (apart > self.limits.tracking).any():
            j = int(np.argmax(apart - self.limits.tracking))
            raise TrackingError(
                f"joint {j} is measured {apart[j]:.4f} rad from its command, beyond {self.limits.tracking[j]:.4f}"
            )
        self.posture, self._speed, self._acceleration = candidate
        return self.posture

    def _towards(self, now_s: float, measured: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """One step to where the chunk is now, but no further ahead of the robot than it may lead.

        Planned as seen from the moving target, so that it is met and then followed, and not pursued.
        """
        aim, drift = self._target(now_s)
        lead, fastest = LEAD * self.limits.tracking, self.limits.velocity
        target = np.clip(aim, measured - lead, measured + lead).clip(self.limits.low, self.limits.high)
        drift = np.where(target == aim, np.clip(drift, -FOLLOWED * fastest, FOLLOWED * fastest), 0.0)
        goal, moved = self._goal, drift * self.period_s
        goal.max_velocity, goal.min_velocity = fastest - drift, -fastest - drift
        goal.current_position, goal.current_velocity = self.posture + moved - target, self._speed - drift
        goal.current_acceleration = self._acceleration
        try:
            self._generator.update(goal, self._step)
        except RuckigError:  # no step that it can find: rare, and not with every limit
            return None
        made = self._step
        return target + made.new_position, drift + made.new_velocity, np.array(made.new_acceleration)

    def _target(self, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Where the chunk is now and how fast it moves, each (J,); at its end it rests."""
        chunk, at = self._chunk, max((now_s - self._began_s) * self._rate_hz, 0.0)
        row = int(min(at, len(chunk) - 1))
        if row == len(chunk) - 1:
            return chunk[row], np.zeros(len(chunk[row]))
        slope = chunk[row + 1] - chunk[row]
        return chunk[row] + (at - row) * slope, slope * self._rate_hz

    def _along_rest(self) -> tuple[np.ndarray, ...]:
        """The next of the commands that lead to the standstill that was found to be free."""
        if not self.at_rest:
            self._rest = tuple(part[1:] for part in self._rest)
        return tuple(part[0] for part in self._rest)

    def _way_to_rest(self, posture: np.ndarray, speed: np.ndarray, acceleration: np.ndarray):
        """Postures, speeds and accelerations (N, J) from there to a standstill, as they would be sent; None where it
        is not free."""
        brake, way = self._brake, Trajectory(len(posture))
        brake.current_position, brake.current_velocity, brake.current_acceleration = posture, speed, acceleration
        try:
            Ruckig(len(posture)).calculate(brake, way)
        except RuckigError:
            return None
        times = np.append(np.arange(0, way.duration, self.period_s), way.duration)
        rest = tuple(np.array(part) for part in zip(*(way.at_time(t) for t in times), strict=True))
        within = (self.limits.low <= rest[0]).all() and (rest[0] <= self.limits.high).all()
        return rest if within and (self._free is None or self._free(rest[0]).all()) else None
