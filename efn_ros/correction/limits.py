# SPDX-License-Identifier: MIT
"""Limits of an action chunk. Every corrected chunk obeys them, for any output of policy and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from efn_ros.robots.motion import HISTORY, MotionLimits, accept_chunk

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class ActionLimits:
    """Bounds in the units u of the robot's action, each float32 (A,); infinite: no bound."""

    low: np.ndarray  # of an action, u
    high: np.ndarray  # of an action, u
    velocity: np.ndarray  # of the first difference, u/s
    acceleration: np.ndarray  # of the second difference, u/s^2
    jerk: np.ndarray  # of the third difference, u/s^3
    reject: np.ndarray  # largest change in a control step that is not refused, u
    residual: np.ndarray  # of the size of a residual, u
    holds_last: np.ndarray  # bool (A,), True: holding repeats the last command (a position); False: zero (a velocity)
    rate_hz: float  # control rate

    @classmethod
    def create(
        cls,
        *,
        low: Values,
        high: Values,
        rate_hz: float,
        holds_last: Sequence[bool],
        residual: Values,
        velocity: Values = (),
        acceleration: Values = (),
        jerk: Values = (),
        reject: Values = (),
    ) -> ActionLimits:
        """Create limits from sequences of length A; an empty one is no bound.

        Raises:
            ValueError: A limit has another length or a value that does not fit; the message names it.
        """
        size = len(low)

        def bound(name: str, values: Values, least: float | None = 0.0) -> np.ndarray:
            array = np.asarray(values if len(values) else [np.inf] * size, np.float32)
            if array.shape != (size,):
                raise ValueError(f"limit {name!r} has {array.size} entries, but an action has {size}")
            if np.isnan(array).any() or (least is not None and (array < least).any()):
                expected = "a number" if least is None else f"a number of at least {least}"
                raise ValueError(f"limit {name!r} is {array.tolist()}: every entry must be {expected}")
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
        """Return the base chunk within `low` and `high`.

        Args:
            chunk: (H, A).
            history: (n, A), the actions commanded before it, latest last.

        Raises:
            RefusedActionError: The chunk has another shape, an entry that is not finite, or a jump beyond `reject`.
        """
        before = history[-1] if len(history) else None
        return accept_chunk(chunk, before, self.low, self.high, self.reject, "action")

    def add(self, base: np.ndarray, residual: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Return an accepted base chunk plus as much of a residual as the limits allow, float32 (H, A).

        Each entry of the residual is bounded, and the sum clipped to `low` and `high`. Then the residual of each
        dimension is scaled down over the whole chunk until no difference exceeds its limit, or the difference of the
        base where that is larger. The admissible set is convex and contains the base, so a scale always exists. A
        change of a difference within the rounding of float32 counts as none.

        Args:
            base: (H, A), of `accept`.
            residual: (H, A).
            history: (n, A), the actions commanded before, latest last.

        Source: equation (7).
        """
        target = np.clip(base + np.clip(residual, -self.residual, self.residual), self.low, self.high)
        past = history[-HISTORY:].reshape(-1, base.shape[1])
        before, after = np.concatenate([past, base]), np.concatenate([past, target])
        scale = np.ones(base.shape[1])
        rounding = np.finfo(np.float32).eps / 2 * np.abs(after).max(axis=0)
        first = np.minimum(self.velocity, self.reject * self.rate_hz)  # nor may a residual cause a jump beyond reject
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
        """Return a chunk close to `chunk` (H, A) within every limit, float32 (H, A), as `MotionLimits.within`."""
        return self._motion.within(chunk, history)

    def hold(self, history: np.ndarray, horizon: int) -> np.ndarray:
        """Return a chunk that comes to a standstill within every limit, float32 (horizon, A).

        A position brakes to rest and stays; at rest, it repeats the last command. A velocity goes to zero.

        Args:
            history: (n, A), the actions commanded before, latest last.
            horizon: Control steps.
        """
        last = history if len(history) else np.zeros((1, len(self.low)), np.float32)
        still = np.where(self.holds_last, self._motion.braking(last, horizon), 0.0)
        return self.within(still, history)

    @cached_property
    def _motion(self) -> MotionLimits:
        """The bounds of the differences from one control step to the next."""
        velocity, acceleration, jerk, reject = (
            bound.astype(np.float64) for bound in (self.velocity, self.acceleration, self.jerk, self.reject)
        )
        first = np.minimum(velocity / self.rate_hz, reject)  # nor may an action jump beyond reject
        return MotionLimits.create(self.low, self.high, first, acceleration / self.rate_hz**2, jerk / self.rate_hz**3)
