"""Motion within limits: what may follow the commands before it, and from where one can still stop.

A dimension's state is its last command, the first difference and the second; the third is the jerk. Units: those of a
command, and control steps. Arithmetic is float64, but every command is rounded to float32 on its way out, and braking
depends on the last three commands alone. So what braking does once it is needed is, bit for bit, what it was found to
do when the commands before it were let out: after them it is always within the limits, whatever is asked for next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

HISTORY = 3  # commanded actions that a third difference (jerk) looks back on
LARGEST, TINY, EPS = (float(getattr(np.finfo(np.float32), name)) for name in ("max", "tiny", "eps"))
UNBOUNDED = 16 * LARGEST  # more than any third difference of float32 numbers, and finite in sums and products
LONGEST_STOP = 256  # control steps; a speed that takes longer to lose is none to go at
AHEAD = 32  # control steps beyond a chunk that its smoothing looks at
WIDTHS = np.geomspace(0.25, 128, 48)  # of smoothing, control steps


class RefusedActionError(ValueError):
    """An action that must not be executed in any form; the message names the entry, the value and the bound."""


class State(NamedTuple):
    """float64 (..., A) each: a command and its first and second difference."""

    position: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def after(cls, commands: np.ndarray) -> State:
        """Of commands (HISTORY, A), latest last."""
        before, speed = np.diff(commands, axis=0)
        return cls(commands[-1], speed, speed - before)

    def command(self, acceleration: np.ndarray) -> np.ndarray:
        """The command with that second difference, as float32 carries it."""
        return (self.position + (self.speed + acceleration)).astype(np.float32).astype(np.float64)

    def then(self, command: np.ndarray) -> State:
        speed = command - self.position
        return State(command, speed, speed - self.speed)

    @property
    def rounding(self) -> np.ndarray:
        """Bound of the rounding errors of the commands that make it."""
        return EPS / 2 * (np.abs(self.position) + 2 * np.abs(self.speed) + np.abs(self.acceleration))


@dataclass(frozen=True)
class Motion:
    """Bounds of a command and of its first, second and third difference, float64 (A,). free: of no difference."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    free: bool

    @classmethod
    def create(cls, low, high, velocity, acceleration, jerk) -> Motion:
        """From arrays (A,), infinite where there is no bound."""
        low, high = (np.clip(np.asarray(bound, np.float64), -LARGEST, LARGEST) for bound in (low, high))
        rates = [np.minimum(np.asarray(bound, np.float64), UNBOUNDED) for bound in (velocity, acceleration, jerk)]
        return cls(low, high, *rates, free=bool(np.min(rates) == UNBOUNDED))

    def within(self, target: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The chunk (H, A), float32, that is close to `target` (H, A) and within every limit. history: (n, A), float32.

        From each of its rows braking is within the limits too. A dimension of which that is true as it is stays so bit
        for bit; another is smoothed as little as needed; what no smoothing brings within the limits brakes. Motion
        begins at rest, at the oldest row of the history; where there is none, at the first row of the target. After a
        history that is beyond the limits a chunk brakes; `low` and `high` hold all the same.
        """
        chunk = np.clip(target, self.low, self.high).astype(np.float32)
        if self.free or not len(chunk):
            return chunk
        if not len(history):
            return np.concatenate([chunk[:1], self.within(chunk[1:], chunk[:1])])
        past, wanted = self._past(history), chunk.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # in what will not be let out
            kept = self._keeps(past, wanted)
            if kept.all():
                return chunk
            braking = self.braking(past, len(chunk) + AHEAD)
            smooth = self._smoothed(past, wanted, braking)
            other = np.where(self._keeps(past, smooth), smooth, braking[: len(chunk)])
        return np.where(kept, chunk, other).astype(np.float32)

    def braking(self, history: np.ndarray, horizon: int) -> np.ndarray:
        """The chunk (horizon, A), float64, that comes to rest as fast as the limits allow. history: (n >= 1, A)."""
        state, chunk = State.after(self._past(history)), np.empty((horizon, len(self.low)))
        with np.errstate(over="ignore"):  # beyond float32 is beyond low or high
            for row in chunk:
                row[:] = np.clip(state.command(self.brake(state)), self.low, self.high)
                state = state.then(row)
        return chunk

    def brake(self, state: State) -> np.ndarray:
        """The second difference (..., A) with which braking goes on.

        Where m decelerations x, x - jerk, x - 2 jerk, ... lead to rest exactly, speed = m x - jerk m (m - 1) / 2: x is
        wanted next, as far as acceleration and jerk allow. No bound is finer than float32 resolves a command.
        """
        finest = EPS * np.abs(state.position) + TINY
        jerk, most = np.maximum(self.jerk, finest), np.maximum(self.acceleration, finest)
        speed = np.abs(state.speed)
        m = np.floor(np.sqrt(2 * speed / jerk + 0.25) + 0.5)
        wanted = np.copysign(speed / m + jerk * (m - 1) / 2, -state.speed)
        near = np.minimum(np.maximum(wanted, state.acceleration - jerk), state.acceleration + jerk)
        return np.minimum(np.maximum(near, -most), most)

    def stops(self, state: State) -> np.ndarray:
        """Whether braking from there is within every limit until it has come to rest, bool (..., A)."""
        allowed = self.velocity + 2 * state.rounding
        surely = self._surely_stops(state, allowed)
        if surely.all():
            return surely
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

    def _surely_stops(self, state: State, allowed: np.ndarray) -> np.ndarray:
        """A bound in closed form that settles `stops` for the many states far from any limit: False leaves it open.

        The acceleration a is gone after |a| / jerk steps; the speed v that is left then after 2 sqrt(v / jerk) +
        v / acceleration more, at v / 2 on average. At worst, rounding halves an acceleration or a jerk.
        """
        finest = EPS * np.abs(state.position) + TINY
        jerk, most = np.maximum(self.jerk, finest) / 2, np.maximum(self.acceleration, finest) / 2
        first = np.abs(state.acceleration) / jerk
        left = np.maximum(np.abs(state.speed), np.abs(state.speed + state.acceleration * first / 2))
        then = 2 * np.sqrt(left / jerk) + left / most
        reach = left * (first + then / 2 + 2)
        inside = (self.low <= state.position - reach) & (state.position + reach <= self.high)
        return inside & (left <= allowed) & (first + then <= LONGEST_STOP)

    def _keeps(self, past: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        """Whether every row of the chunk (H, A) is within the limits and can stop, bool (A,)."""
        obeys, state = self._obeys(past, chunk)
        obeys = obeys.all(axis=0)
        state = State(state.position, state.speed * obeys, state.acceleration * obeys)  # the others are settled
        return obeys & self.stops(state).all(axis=0)

    def _obeys(self, past: np.ndarray, chunks: np.ndarray) -> tuple[np.ndarray, State]:
        """Whether each row of chunks (..., H, A) is within the limits up to rounding, bool, and its state."""
        before = np.broadcast_to(past, (*chunks.shape[:-2], *past.shape))
        speed = np.diff(np.concatenate([before, chunks], axis=-2), axis=-2)
        acceleration = np.diff(speed, axis=-2)
        jerk = np.diff(acceleration, axis=-2)
        state = State(chunks, speed[..., 2:, :], acceleration[..., 1:, :])
        rounding = state.rounding
        obeys = (self.low <= chunks) & (chunks <= self.high)
        obeys &= np.abs(state.speed) <= self.velocity + 2 * rounding
        obeys &= np.abs(state.acceleration) <= self.acceleration + 4 * rounding
        obeys &= np.abs(jerk) <= self.jerk + 8 * rounding
        return obeys, state

    def _smoothed(self, past: np.ndarray, target: np.ndarray, braking: np.ndarray) -> np.ndarray:
        """The target (H, A), smoothed as little as the limits allow; the first rows of `braking` where none is enough.

        The target goes on beyond its end as it came, mirrored in its last row, so that it does not seem to stop there.
        What no motion could reach in time is brought closer first. No row goes beyond the target, unless braking does:
        then by no more than twice as much.
        """
        state = State.after(past)
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
        """The last commands, float64 (HISTORY, A)."""
        past = np.clip(history[-HISTORY:].astype(np.float64), self.low, self.high)
        return np.concatenate([np.repeat(past[:1], HISTORY - len(past), axis=0), past])


@lru_cache(maxsize=4)
def _smoothers(rows: int) -> np.ndarray:
    """From three commands and a target to smooth chunks, (len(WIDTHS), rows, 3 + rows); the least smoothing first.

    Whittaker-Henderson smoothing with differences of all orders: the chunk x that minimises, for a width w,
    |x - target|^2 + 3 w^2 |D x|^2 + 3 w^4 |D^2 x|^2 + w^6 |D^3 x|^2. The weights are those of (1 + w^2 D'D)^3, which
    answers a step with critical damping: from rest it does not overshoot.
    """
    d1, d2, d3 = (np.diff(np.eye(HISTORY + rows), order, axis=0)[-rows:] for order in (1, 2, 3))
    w = WIDTHS[:, None, None]
    penalty = (3 * w**2 * (d1.T @ d1) + 3 * w**4 * (d2.T @ d2) + w**6 * (d3.T @ d3))[:, HISTORY:]
    given = np.concatenate([-penalty[:, :, :HISTORY], np.broadcast_to(np.eye(rows), (len(w), rows, rows))], axis=2)
    return np.linalg.solve(np.eye(rows) + penalty[:, :, HISTORY:], given)
