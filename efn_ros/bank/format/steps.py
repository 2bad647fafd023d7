"""The decisions of one rollout as arrays side by side, and which of them follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efn_ros.types import Mode, Quantised

MOTION_EPSILON = 1e-3  # in the units of the action and of proprioception


def is_blank(
    executed: np.ndarray, proprio: np.ndarray, proprio_next: np.ndarray, mode: Mode, epsilon: float = MOTION_EPSILON
) -> bool:
    """Whether nothing moved in a decision; such a step is stored but never recalled (4.2: "every non-blank step").

    It is blank when it was commanded to hold (its mode is HOLD or STOPPED, or every entry of `executed` (H, A) is
    within `epsilon` of zero) and no entry of proprioception (P,) changed by more than `epsilon`. The last step of a
    rollout has nothing after it: given its own proprioception as `proprio_next`, it is judged by its command alone.
    """
    held = mode in (Mode.HOLD, Mode.STOPPED) or bool(np.all(np.abs(executed) <= epsilon))
    return held and bool(np.all(np.abs(proprio_next - proprio) <= epsilon))


def successors(steps: np.ndarray) -> np.ndarray:
    """Row of the decision after each one, int64 (N,), given their indices (N,).

    A row whose successor was not stored (the last, and one before a gap) is its own.
    """
    rows = np.arange(len(steps))
    rows[:-1] += np.diff(steps) == 1
    return rows


def before(arrays: StepArrays | Steps) -> tuple[np.ndarray, np.ndarray]:
    """What was executed in the decision before each one, (N, H, A), and proprioception before that, (N, P).

    Zero and its own proprioception, as of a robot that stood still, for a row whose predecessor was not stored.
    """
    rows = np.arange(len(arrays.steps))
    known = np.diff(arrays.steps, prepend=arrays.steps[:1]) == 1
    rows[known] -= 1
    return arrays.executed[rows] * known[:, None, None], arrays.proprio[rows]


@dataclass(frozen=True)
class StepArrays:
    """All decisions of one rollout but their sketches and images; N rows each, float32 unless said otherwise.

    key: q (N, d), scale (N,). base, executed, residual: (N, H, A). latent: (N, L, dz). proprio: (N, P). stamps_ns,
    steps: int64 (N,). modes: uint8 (N,). confidence: (N,). recallable: bool (N,).
    proposed: (N, H, A), the residual that memory proposed, zero where `proposes`, bool (N,), says that it proposed
    nothing. cut: bool (N,), the limits left less of it than was asked for. explored: str (N,), the mode of exploration
    that probed, empty for none. source, source_step: str and int32 (N,), the rollout and the step behind the
    correction, empty and -1 for none.
    """

    key: Quantised
    base: np.ndarray
    executed: np.ndarray
    residual: np.ndarray
    latent: np.ndarray
    proprio: np.ndarray
    stamps_ns: np.ndarray
    steps: np.ndarray
    modes: np.ndarray
    confidence: np.ndarray
    recallable: np.ndarray
    proposed: np.ndarray
    proposes: np.ndarray
    cut: np.ndarray
    explored: np.ndarray
    source: np.ndarray
    source_step: np.ndarray


@dataclass(frozen=True)
class Steps:
    """What recall compares and returns of one rollout; N rows each, float32 unless said otherwise.

    key, latent_key: int8 (N, d) and (N, dz); key_norm, latent_norm: (N,), one over their norms (0 for a zero row), so
    that norm * q is the unit vector of (32) and (37). latent: (N, dz), mean of the latent tokens. base, executed: (N,
    H, A). proprio: (N, P). steps: int64 (N,). recallable: bool (N,).
    """

    key: np.ndarray
    key_norm: np.ndarray
    latent_key: np.ndarray
    latent_norm: np.ndarray
    latent: np.ndarray
    base: np.ndarray
    executed: np.ndarray
    proprio: np.ndarray
    steps: np.ndarray
    recallable: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in vars(self).values())


@dataclass(frozen=True)
class Followed:
    """An episode's n decisions in which memory was followed. confidence: (n,) of the recall, in [0, 1]. sources: n
    names, the rollout behind each. success: how the episode ended."""

    instruction: str
    sources: Sequence[str]
    confidence: np.ndarray
    success: bool = False
