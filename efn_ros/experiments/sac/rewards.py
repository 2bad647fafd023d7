"""What a step was worth: likeness to what followed in memory, progress towards it, success. Similarities are in [0, 1].

Appendix E tells how such rewards fail; each failure is met by its design here:
* values crowd in a narrow range: a fixed offset and scale (20), or differences of similarities; never a running mean,
  which turns good steps into bad ones as it moves;
* the target moves, because another memory is recalled at every step: a `Reference` is chosen once and advances with the
  episode;
* raw tokens are huge: similarities are those of sketches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shaping:
    """Weights of equations (9), (16) and (20). Raises ValueError for a negative weight.

    scale, offset: alpha and beta of (20). absolute, progress, motion, lazy, time: w_abs, w_prog, w_mot, w_lazy and
    lambda_time of (16). tolerance: its epsilon, the progress below which a step counts as idle. residual: lambda_res of
    (9). success: paid once, by the step that succeeds.
    """

    scale: float = 1.0
    offset: float = 0.0
    absolute: float = 1.0
    progress: float = 1.0
    motion: float = 0.1
    lazy: float = 1.0
    time: float = 0.01
    tolerance: float = 0.01
    residual: float = 0.01
    success: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "absolute", "progress", "motion", "lazy", "time", "tolerance", "residual", "success"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")


def linear(similarity: np.ndarray, shaping: Shaping) -> np.ndarray:
    """Equation (20): alpha (similarity - beta)."""
    return shaping.scale * (similarity - shaping.offset)


def semantic_match(following: np.ndarray, residual: np.ndarray, shaping: Shaping) -> np.ndarray:
    """Equations (8)(9), the likeness mapped by (20). following: (B,) of F_t+1 to the recalled successor; residual:
    (B, ...) of the executed chunk."""
    size = np.square(residual).reshape(len(residual), -1).sum(axis=1)
    return linear(following, shaping) - shaping.residual * size


def anti_idling(following: np.ndarray, present: np.ndarray, stay: np.ndarray, shaping: Shaping) -> np.ndarray:
    """Equations (14)-(16), the likeness mapped by (20); each argument (B,).

    following: of F_t+1 to the recalled successor; present: of F_t to the recalled step; stay: of F_t+1 to F_t.
    """
    progress = following - present
    idle = np.maximum(shaping.tolerance - progress, 0.0)
    return (
        shaping.absolute * linear(following, shaping)
        + shaping.progress * np.maximum(progress, 0.0)
        + shaping.motion * (1.0 - stay)
        - shaping.lazy * following * idle * stay
        - shaping.time
    )


def sparse(success: np.ndarray, before: np.ndarray, after: np.ndarray, gamma: float, shaping: Shaping) -> np.ndarray:
    """Success, with a potential between that no policy can farm (Ng, Harada and Russell, 1999); each argument (B,).

    before, after: potential of the step and of the next, such as `Reference.potential`; that of an ended episode is 0.
    """
    return shaping.success * success + gamma * after - before


class Reference:
    """One remembered rollout to be followed: chosen once, then a step further with every step of the episode."""

    def __init__(self, length: int, start: int = 0) -> None:
        """length: steps of the rollout. start: the one that was recalled. Raises ValueError outside of it."""
        if not 0 <= start < length:
            raise ValueError(f"a rollout of {length} steps has no step {start}")
        self._length, self._start = length, start

    def step(self, elapsed: int) -> int:
        """Index of the remembered step that belongs to the step `elapsed` after the choice; the last one stays."""
        return min(self._start + elapsed, self._length - 1)

    def successor(self, elapsed: int) -> int:
        """Index of the step to be reached next."""
        return self.step(elapsed + 1)

    def potential(self, similarity: np.ndarray) -> float:
        """How far along the rollout the present is, in [0, 1]: that of the likest remembered step, times its likeness.

        similarity: (length,) of the present to every step of the rollout.
        """
        best = int(np.argmax(similarity))
        return float(similarity[best] * (best + 1) / self._length)
