# SPDX-License-Identifier: MIT
"""Decisions of one rollout as parallel arrays, and which of them are consecutive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efn_ros.types import Mode, Quantised

MOTION_EPSILON = 1e-3  # in the units of the action and of proprioception


def is_blank(executed: np.ndarray, proprio: np.ndarray, proprio_next: np.ndarray, mode: Mode) -> bool:
    """Return whether the robot stood still in a decision; such a step is stored but never recalled (section 4.2).

    A step is blank if it was a command to hold, by its mode or because every entry of `executed` is about zero, and no
    entry of proprioception changed.

    Args:
        executed: Chunk (H, A).
        proprio: Before the chunk, (P,).
        proprio_next: After it, (P,); `proprio` for the last step of a rollout, which then depends on its command alone.
        mode: Of the correction.
    """
    held = mode in (Mode.HOLD, Mode.STOPPED) or bool(np.all(np.abs(executed) <= MOTION_EPSILON))
    return held and bool(np.all(np.abs(proprio_next - proprio) <= MOTION_EPSILON))


def successors(steps: np.ndarray) -> np.ndarray:
    """Return the row of the decision after each one, int64 (N,), given their indices (N,).

    A row without a stored successor (the last one, and one before a gap) is its own.
    """
    rows = np.arange(len(steps))
    rows[:-1] += np.diff(steps) == 1
    return rows


def previous_decisions(arrays: StepArrays | Steps) -> tuple[np.ndarray, np.ndarray]:
    """Return the executed chunk of the decision before each one, (N, H, A), and proprioception before that, (N, P).

    A row without a stored predecessor gets a zero chunk and its own proprioception, as if the robot had stood still.
    """
    rows = np.arange(len(arrays.steps))
    known = np.diff(arrays.steps, prepend=arrays.steps[:1]) == 1
    rows[known] -= 1
    return arrays.executed[rows] * known[:, None, None], arrays.proprio[rows]


@dataclass(frozen=True)
class StepArrays:
    """All decisions of one rollout, without sketches and images; N rows each, float32 unless stated otherwise."""

    key: Quantised  # q (N, d), scale (N,)
    base: np.ndarray  # (N, H, A)
    executed: np.ndarray  # (N, H, A)
    residual: np.ndarray  # (N, H, A), added to the base
    latent: np.ndarray  # (N, L, dz)
    proprio: np.ndarray  # (N, P)
    stamps_ns: np.ndarray  # int64 (N,)
    steps: np.ndarray  # int64 (N,), index of the decision within its episode
    modes: np.ndarray  # uint8 (N,), values of `Mode`
    confidence: np.ndarray  # (N,), of the recall
    recallable: np.ndarray  # bool (N,), whether the step is not blank
    proposed: np.ndarray  # (N, H, A), residual that memory proposed; zero if none
    proposes: np.ndarray  # bool (N,), whether memory proposed one
    clipped: np.ndarray  # bool (N,), whether the limits reduced it
    explored: np.ndarray  # str (N,), mode of exploration; empty: none
    source: np.ndarray  # str (N,), rollout behind the correction; empty: none
    source_step: np.ndarray  # int32 (N,), its decision; -1: none


@dataclass(frozen=True)
class Steps:
    """Data of one rollout that retrieval compares and returns; N rows each, float32 unless stated otherwise."""

    key: np.ndarray  # int8 (N, d)
    key_norm: np.ndarray  # (N,), one over the norm of each key, 0 for a zero row: norm * q is the unit vector of (32)
    latent_key: np.ndarray  # int8 (N, dz)
    latent_norm: np.ndarray  # (N,), as `key_norm`, for (37)
    latent: np.ndarray  # (N, dz), mean of the latent tokens
    base: np.ndarray  # (N, H, A)
    executed: np.ndarray  # (N, H, A)
    proprio: np.ndarray  # (N, P)
    steps: np.ndarray  # int64 (N,), index of the decision within its episode
    recallable: np.ndarray  # bool (N,), whether the step is not blank

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return sum(array.nbytes for array in vars(self).values())


@dataclass(frozen=True)
class FollowedEpisode:
    """The n decisions of an episode that executed a correction by memory."""

    instruction: str  # of the episode
    sources: Sequence[str]  # (n,), rollout behind each correction
    confidence: np.ndarray  # (n,), of the recall, in [0, 1]
    success: bool = False  # whether the episode succeeded
