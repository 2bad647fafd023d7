# SPDX-License-Identifier: MIT
"""Motion limits: which commands may follow the ones before, and how to smooth a target until it may follow.

The state of a dimension is its last command, the first difference and the second difference; the third difference is
the jerk. Units are those of a command, and control steps. Arithmetic is float64, but every command is rounded to
float32, and braking depends on the last three commands alone. Braking therefore repeats, bit for bit, what was computed
when these commands were checked: it stays within the limits whatever target comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

HISTORY = 3  # last commands that a third difference (jerk) needs
LARGEST, TINY, EPS = (float(getattr(np.finfo(np.float32), name)) for name in ("max", "tiny", "eps"))
UNBOUNDED = 16 * LARGEST  # more than any third difference of float32 numbers, and finite in sums and products
LONGEST_STOP = 256  # control steps; a speed that takes longer to brake is not allowed
AHEAD = 32  # control steps beyond a chunk that are smoothed with it
WIDTHS = np.geomspace(0.25, 128, 48)  # of smoothing, control steps


class RefusedActionError(ValueError):
    """An action that must not be executed in any form; the message names the entry, the value and the bound."""


def accept_chunk(
    chunk: np.ndarray, before: np.ndarray | None, low: np.ndarray, high: np.ndarray, reject: np.ndarray, what: str
) -> np.ndarray:
    """Return a chunk clipped to its range.

    Args:
        chunk: (H, A).
        before: The command before it, (A,); None: the chunk begins anywhere.
        low: Lower bounds, (A,).
        high: Upper bounds, (A,).
        reject: Largest jump from row to row, (A,).
        what: What a row is called in messages.

    Raises:
        RefusedActionError: The chunk has another shape, an entry that is not finite, or a jump beyond `reject`.
    """
    if chunk.ndim != 2 or chunk.shape[1] != len(low) or not len(chunk):
        raise RefusedActionError(f"{what} chunk has shape {chunk.shape}; (H >= 1, {len(low)}) was expected")
    if not np.isfinite(chunk).all():
        row, entry = np.argwhere(~np.isfinite(chunk))[0]
        raise RefusedActionError(f"{what}[{row}][{entry}] is {chunk[row, entry]}")
    accepted = np.clip(chunk, low, high)
    jumps = np.abs(np.diff(accepted, axis=0, prepend=accepted[:1] if before is None else before[None]))
    if (jumps > reject).any():
        row, entry = np.argwhere(jumps > reject)[0]
        raise RefusedActionError(f"{what}[{row}][{entry}] jumps by {jumps[row, entry]:.4f}, beyond {reject[entry]:.4f}")
    return accepted


class MotionState(NamedTuple):
    """A command and its first and second difference, float64 (..., A) each."""

    position: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def after(cls, commands: np.ndarray) -> MotionState:
        """Return the state after commands (HISTORY, A), latest last."""
        before, speed = np.diff(commands, axis=0)
        return cls(commands[-1], speed, speed - before)

    def command(self, acceleration: np.ndarray) -> np.ndarray:
        """Return the next command with this second difference, rounded to float32, as float64."""
        return (self.position + (self.speed + acceleration)).astype(np.float32).astype(np.float64)

    def then(self, command: np.ndarray) -> MotionState:
        """Return the state after one more command."""
        speed = command - self.position
        return MotionState(command, speed, speed - self.speed)

    @property
    def rounding(self) -> np.ndarray:
        """Bound of the rounding errors of the three commands behind the state."""
        return EPS / 2 * (np.abs(self.position) + 2 * np.abs(self.speed) + np.abs(self.acceleration))


@dataclass(frozen=True)
class MotionLimits:
    """Bounds of a command and of its differences, float64 (A,) each; made by `create`."""

    low: np.ndarray  # of the command
    high: np.ndarray  # of the command
    velocity: np.ndarray  # of the first difference
    acceleration: np.ndarray  # of the second difference
    jerk: np.ndarray  # of the third difference
    free: bool  # whether no difference is bounded

    @classmethod
    def create(
        cls, low: np.ndarray, high: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, jerk: np.ndarray
    ) -> MotionLimits:
        """Create limits from arrays (A,), infinite where there is no bound."""
        low, high = (np.clip(np.asarray(bound, np.float64), -LARGEST, LARGEST) for bound in (low, high))
        rates = [np.minimum(np.asarray(bound, np.float64), UNBOUNDED) for bound in (velocity, acceleration, jerk)]
        return cls(low, high, *rates, free=bool(np.min(rates) == UNBOUNDED))

    def within(self, target: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Return a chunk close to a target that is within every limit; so is braking after each of its rows.

        A dimension whose target is within the limits stays as it is, bit for bit. Another one is smoothed as little as
        needed; if no smoothing suffices, it brakes. Motion begins at rest at the oldest row of the history; without a
        history, at the first row of the target. After a history beyond the limits the chunk brakes, within `low` and
        `high`.

        Args:
            target: Chunk (H, A).
            history: The commands before it, float32 (n, A), latest last.

        Returns:
            The chunk, float32 (H, A).
        """
        chunk = np.clip(target, self.low, self.high).astype(np.float32)
        if self.free or not len(chunk):
            return chunk
        if not len(history):
            return np.concatenate([chunk[:1], self.within(chunk[1:], chunk[:1])])
        past, wanted = self._past(history), chunk.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # in candidates that are rejected
            valid = self._valid(past, wanted)
            if valid.all():
                return chunk
            braking = self.braking(past, len(chunk) + AHEAD)
            smooth = self._smoothed(past, wanted, braking)
            other = np.where(self._valid(past, smooth), smooth, braking[: len(chunk)])
        return np.where(valid, chunk, other).astype(np.float32)

    def braking(self, history: np.ndarray, horizon: int) -> np.ndarray:
        """Return the chunk, float64 (horizon, A), that stops as fast as the limits allow.

        Args:
            history: The commands before it, (n >= 1, A), latest last.
            horizon: Control steps.
        """
        state, chunk = MotionState.after(self._past(history)), np.empty((horizon, len(self.low)))
        with np.errstate(over="ignore"):  # what exceeds float32 exceeds low or high too
            for row in chunk:
                row[:] = np.clip(state.command(self.brake(state)), self.low, self.high)
                state = state.then(row)
        return chunk

    def brake(self, state: MotionState) -> np.ndarray:
        """Return the second difference (..., A) of the next braking command.

        If m decelerations x, x - jerk, x - 2 jerk, ... end exactly at rest, then speed = m x - jerk m (m - 1) / 2. The
        result is this x as far as acceleration and jerk allow. No bound is finer than float32 resolves a command.
        """
        finest = EPS * np.abs(state.position) + TINY
        jerk, most = np.maximum(self.jerk, finest), np.maximum(self.acceleration, finest)
        speed = np.abs(state.speed)
        m = np.floor(np.sqrt(2 * speed / jerk + 0.25) + 0.5)
        wanted = np.copysign(speed / m + jerk * (m - 1) / 2, -state.speed)
        near = np.minimum(np.maximum(wanted, state.acceleration - jerk), state.acceleration + jerk)
        return np.minimum(np.maximum(near, -most), most)

    def stops(self, state: MotionState) -> np.ndarray:
        """Return whether braking from a state stays within every limit until it is at rest, bool (..., A)."""
        allowed = self.velocity + 2 * state.rounding
        certain = self._certainly_stops(state, allowed)
        if certain.all():
            return certain
        lowest = highest = state.position
        fastest = np.abs(state.speed)
        for _ in range(LONGEST_STOP):
            if not (state.speed.any() or state.acceleration.any()):
                break
            state = state.then(state.command(self.brake(state)))
            lowest, highest = np.minimum(lowest, state.position), np.maximum(highest, state.position)
            fastest = np.maximum(fastest, np.abs(state.speed))
        rests = (state.speed == 0) & (state.acceleration == 0)
        return rests & (self.low <= lowest) & (highest <= self.high) & (fastest <= allowed)

    def _certainly_stops(self, state: MotionState, allowed: np.ndarray) -> np.ndarray:
        """Decide `stops` in closed form for states far from every limit; False means undecided.

        The acceleration a is zero after |a| / jerk steps. The remaining speed v is zero after
        2 sqrt(v / jerk) + v / acceleration more, at v / 2 on average. At worst, rounding halves an acceleration or a
        jerk.
        """
        finest = EPS * np.abs(state.position) + TINY
        jerk, most = np.maximum(self.jerk, finest) / 2, np.maximum(self.acceleration, finest) / 2
        first = np.abs(state.acceleration) / jerk
        left = np.maximum(np.abs(state.speed), np.abs(state.speed + state.acceleration * first / 2))
        then = 2 * np.sqrt(left / jerk) + left / most
        reach = left * (first + then / 2 + 2)
        inside = (self.low <= state.position - reach) & (state.position + reach <= self.high)
        return inside & (left <= allowed) & (first + then <= LONGEST_STOP)

    def _valid(self, past: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        """Return whether every row of a chunk (H, A) is within the limits and can stop, bool (A,)."""
        obeys, state = self._obeys(past, chunk)
        obeys = np.all(obeys, axis=0)
        # The other dimensions are decided: at rest they cost no braking.
        state = MotionState(state.position, state.speed * obeys, state.acceleration * obeys)
        return obeys & np.all(self.stops(state), axis=0)

    def _obeys(self, past: np.ndarray, chunks: np.ndarray) -> tuple[np.ndarray, MotionState]:
        """Return whether each row of chunks (..., H, A) is within the limits up to rounding, bool, and its state."""
        before = np.broadcast_to(past, (*chunks.shape[:-2], *past.shape))
        speed = np.diff(np.concatenate([before, chunks], axis=-2), axis=-2)
        acceleration = np.diff(speed, axis=-2)
        jerk = np.diff(acceleration, axis=-2)
        state = MotionState(chunks, speed[..., 2:, :], acceleration[..., 1:, :])
        rounding = state.rounding
        obeys = (self.low <= chunks) & (chunks <= self.high)
        obeys &= np.abs(state.speed) <= self.velocity + 2 * rounding
        obeys &= np.abs(state.acceleration) <= self.acceleration + 4 * rounding
        obeys &= np.abs(jerk) <= self.jerk + 8 * rounding
        return obeys, state

    def _smoothed(self, past: np.ndarray, target: np.ndarray, braking: np.ndarray) -> np.ndarray:
        """Return the target (H, A), smoothed as little as the limits allow; if none suffices, the rows of `braking`.

        The target is continued beyond its end, mirrored at its last row, so that it does not seem to stop there. What
        no motion could reach in time is brought closer first. No row exceeds the range of the target, unless braking
        does: then by at most twice as much.
        """
        state = MotionState.after(past)
        aim = np.pad(target, ((0, AHEAD), (0, 0)), mode="reflect", reflect_type="odd")
        once = np.arange(1.0, len(aim) + 1)[:, None]
        twice, thrice = once * (once + 1) / 2, once * (once + 1) * (once + 2) / 6  # sums, and sums of sums
        coasting = np.abs(state.speed) * once
        reach = np.minimum(self.velocity * once, coasting + self.acceleration * twice)
        reach = np.minimum(reach, coasting + np.abs(state.acceleration) * twice + self.jerk * thrice)
        aim = np.clip(np.clip(aim, self.low, self.high), state.position - reach, state.position + reach)
        plans = state.position + _smoothers(len(aim)) @ (np.concatenate([past, aim]) - state.position)
        lowest, highest = aim.min(axis=0), aim.max(axis=0)
        lowest -= 2 * np.maximum(lowest - braking.min(axis=0), 0)
        highest += 2 * np.maximum(braking.max(axis=0) - highest, 0)
        plans = np.clip(plans, np.maximum(lowest, self.low), np.minimum(highest, self.high))
        plans = plans.astype(np.float32).astype(np.float64)
        obeys = self._obeys(past, plans)[0].all(axis=1)
        least = plans[obeys.argmax(axis=0), :, np.arange(len(self.low))].T
        return np.where(obeys.any(axis=0), least, braking)[: len(target)]

    def _past(self, history: np.ndarray) -> np.ndarray:
        """Return the last commands, float64 (HISTORY, A), within `low` and `high`."""
        past = np.clip(history[-HISTORY:].astype(np.float64), self.low, self.high)
        return np.concatenate([np.repeat(past[:1], HISTORY - len(past), axis=0), past])


@lru_cache(maxsize=4)
def _smoothers(rows: int) -> np.ndarray:
    """Return matrices from three commands and a target to smooth chunks, (len(WIDTHS), rows, 3 + rows).

    The least smoothing comes first. Whittaker-Henderson smoothing with differences of all orders: for a width w, the
    chunk x minimises |x - target|^2 + 3 w^2 |D x|^2 + 3 w^4 |D^2 x|^2 + w^6 |D^3 x|^2. The weights are those of
    (1 + w^2 D'D)^3, whose step response is critically damped: from rest it does not overshoot.
    """
    d1, d2, d3 = (np.diff(np.eye(HISTORY + rows), order, axis=0)[-rows:] for order in (1, 2, 3))
    w = WIDTHS[:, None, None]
    penalty = (3 * w**2 * (d1.T @ d1) + 3 * w**4 * (d2.T @ d2) + w**6 * (d3.T @ d3))[:, HISTORY:]
    given = np.concatenate([-penalty[:, :, :HISTORY], np.broadcast_to(np.eye(rows), (len(w), rows, rows))], axis=2)
    return np.linalg.solve(np.eye(rows) + penalty[:, :, HISTORY:], given)
