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
    """All decisions of one rollout but their sketches and images; N rows each, float32 unless said otherwise."""

    key: Quantised  # q (N, d), scale (N,)
    base: np.ndarray  # (N, H, A)
    executed: np.ndarray  # (N, H, A)
    residual: np.ndarray  # (N, H, A), what was added to the base
    latent: np.ndarray  # (N, L, dz)
    proprio: np.ndarray  # (N, P)
    stamps_ns: np.ndarray  # int64 (N,)
    steps: np.ndarray  # int64 (N,), index of the decision within its episode
    modes: np.ndarray  # uint8 (N,), values of `Mode`
    confidence: np.ndarray  # (N,), of the recall
    recallable: np.ndarray  # bool (N,)
    proposed: np.ndarray  # (N, H, A), the residual that memory proposed; zero where there is none
    proposes: np.ndarray  # bool (N,), whether there is one
    clipped: np.ndarray  # bool (N,), the limits left less of it than memory asked for
    explored: np.ndarray  # str (N,), the mode of exploration; empty: none
    source: np.ndarray  # str (N,), the rollout behind the correction; empty: none
    source_step: np.ndarray  # int32 (N,), its decision; -1: none


@dataclass(frozen=True)
class Steps:
    """What recall compares and returns of one rollout; N rows each, float32 unless said otherwise."""

    key: np.ndarray  # int8 (N, d)
    key_norm: np.ndarray  # (N,), one over the norm of each key, 0 for a zero row: norm * q is the unit vector of (32)
    latent_key: np.ndarray  # int8 (N, dz)
    latent_norm: np.ndarray  # (N,), likewise, for (37)
    latent: np.ndarray  # (N, dz), mean of the latent tokens
    base: np.ndarray  # (N, H, A)
    executed: np.ndarray  # (N, H, A)
    proprio: np.ndarray  # (N, P)
    steps: np.ndarray  # int64 (N,), index of the decision within its episode
    recallable: np.ndarray  # bool (N,)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in vars(self).values())


@dataclass(frozen=True)
class FollowedEpisode:
    """The n decisions of an episode in which memory was followed."""

    instruction: str
    sources: Sequence[str]  # (n,), the rollout behind each
    confidence: np.ndarray  # (n,), of the recall, in [0, 1]
    success: bool = False  # how the episode ended
