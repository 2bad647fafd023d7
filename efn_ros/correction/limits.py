"""Limits of an action, over a whole chunk. What leaves the corrector obeys them, whatever memory or policy said."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from efn_ros.robots.motion import HISTORY, Motion, RefusedActionError


@dataclass(frozen=True)
class ActionLimits:
    """Bounds in the units u of the robot's action; every array is float32 (A,), infinite where there is no bound.

    low, high: of an action, u. velocity, acceleration, jerk: of its first, second and third difference, u/s, u/s^2,
    u/s^3. reject: jump from one control step to the next that is refused, not clipped, u. residual: largest size of
    a residual, u. holds_last: (A,) bool, True where holding means repeating the last command (a position, a gripper),
    False where it means zero (a velocity). rate_hz: control rate.
    """

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    reject: np.ndarray
    residual: np.ndarray
    holds_last: np.ndarray
    rate_hz: float

    @classmethod
    def create(
        cls, *, low, high, rate_hz, holds_last, residual, velocity=(), acceleration=(), jerk=(), reject=()
    ) -> ActionLimits:
        """From sequences of length A; an empty one means no bound. Raises ValueError naming the bad one."""
        size = len(low)

        def bound(name: str, values, least: float | None = 0.0) -> np.ndarray:
            array = np.asarray(values if len(values) else [np.inf] * size, np.float32)
            if array.shape != (size,):
                raise ValueError(f"limit {name!r} has {array.size} entries, but an action has {size}")
            if np.isnan(array).any() or (least is not None and (array < least).any()):
                wanted = "a number" if least is None else f"a number of at least {least}"
                raise ValueError(f"limit {name!r} is {array.tolist()}: every entry must be {wanted}")
            return array

        low, high = bound("low", low, None), bound("high", high, None)
        if not (low < high).all():
            raise ValueError(f"limit 'low' {low.tolist()} must lie below 'high' {high.tolist()}")
        if not 0 < rate_hz < np.inf:
            raise ValueError(f"rate_hz is {rate_hz}; it must be positive and finite")
        return cls(
            low=low,
            high=high,
            velocity=bound("velocity", velocity),
            acceleration=bound("acceleration", acceleration),
            jerk=bound("jerk", jerk),
            reject=bound("reject", reject),
            residual=bound("residual", residual),
            holds_last=bound("holds_last", np.asarray(holds_last, np.float32)).astype(bool),
            rate_hz=float(rate_hz),
        )

    def accept(self, chunk: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The base chunk (H, A) within `low` and `high`. history: (n, A), the actions commanded before it, latest last.

        Raises RefusedActionError for NaN, Inf, a wrong shape or a jump beyond `reject`.
        """
        if chunk.ndim != 2 or chunk.shape[1] != len(self.low) or not len(chunk):
            raise RefusedActionError(f"action chunk has shape {chunk.shape}; (H >= 1, {len(self.low)}) was expected")
        if not np.isfinite(chunk).all():
            step, entry = np.argwhere(~np.isfinite(chunk))[0]
            raise RefusedActionError(f"action[{step}][{entry}] is {chunk[step, entry]}")
        accepted = np.clip(chunk, self.low, self.high)
        jumps = np.abs(np.diff(accepted, axis=0, prepend=history[-1:] if len(history) else accepted[:1]))
        if (jumps > self.reject).any():
            step, entry = np.argwhere(jumps > self.reject)[0]
            raise RefusedActionError(
                f"action[{step}][{entry}] jumps by {jumps[step, entry]:.4f}, beyond {self.reject[entry]:.4f}"
            )
        return accepted

    def add(self, base: np.ndarray, residual: np.ndarray, history: np.ndarray) -> np.ndarray:
        """An accepted base chunk plus as much of `residual` as the limits leave, both (H, A).

        Each entry of the residual is bounded and the sum clipped to `low` and `high`; then each dimension's residual
        is scaled back over the whole chunk until none of its differences exceeds its limit, or what the base alone
        reaches where that is more. The admissible set is convex and holds the base, so a scale always exists. Changes
        of a difference that are no larger than the rounding of float32 are none.
        """
        target = np.clip(base + np.clip(residual, -self.residual, self.residual), self.low, self.high)
        past = history[-HISTORY:].reshape(-1, base.shape[1])
        before, after = np.concatenate([past, base]), np.concatenate([past, target])
        scale = np.ones(base.shape[1])
        rounding = np.finfo(np.float32).eps / 2 * np.abs(after).max(axis=0)
        first = np.minimum(self.velocity, self.reject * self.rate_hz)  # a residual must not jump beyond reject either
        for order, bound in enumerate((first, self.acceleration, self.jerk), start=1):
            if np.isinf(bound).all() or len(before) <= order:
                continue
            plain = np.diff(before.astype(np.float64), order, axis=0)
            change = np.diff(after.astype(np.float64), order, axis=0) - plain
            change = np.where(np.abs(change) <= 2**order * rounding, 0.0, change)
            allowed = np.maximum(bound / self.rate_hz**order, np.abs(plain))
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(change == 0, np.inf, (allowed - np.sign(change) * plain) / np.abs(change))
            scale = np.minimum(scale, room.min(axis=0))
        return np.where(scale >= 1.0, target, base + scale * (target - base)).astype(np.float32)

    def within(self, chunk: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The chunk (H, A) as close to `chunk` as every limit allows, float32; see `Motion.within`."""
        return self._motion.within(chunk, history)

    def hold(self, history: np.ndarray, horizon: int) -> np.ndarray:
        """The chunk (horizon, A) that comes to a standstill within every limit, float32.

        A position brakes to rest and stays, which is the last command where that is at rest already; the rest goes to
        zero.
        """
        last = history if len(history) else np.zeros((1, len(self.low)), np.float32)
        still = np.where(self.holds_last, self._motion.braking(last, horizon), 0.0)
        return self.within(still, history)

    @cached_property
    def _motion(self) -> Motion:
        """The bounds of the differences from one control step to the next."""
        velocity, acceleration, jerk, reject = (
            bound.astype(np.float64) for bound in (self.velocity, self.acceleration, self.jerk, self.reject)
        )
        first = np.minimum(velocity / self.rate_hz, reject)  # no action may jump beyond reject either
        return Motion.create(self.low, self.high, first, acceleration / self.rate_hz**2, jerk / self.rate_hz**3)
