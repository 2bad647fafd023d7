# SPDX-License-Identifier: MIT
"""Rewards of a decision: similarity to the successor in the bank, progress towards it, success.

Similarities are in [0, 1]. Appendix E lists how such rewards fail. This design answers each failure:

* Values lie in a narrow range: a fixed offset and scale (20) or differences of similarities spread them. A running mean
  would turn good steps into bad ones as it moves.
* The target moves, because each step recalls another experience: a `Reference` is chosen once and advances with the
  episode.
* Raw tokens are too many: similarities are those of sketches and keys.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class RewardConfig:
    """Weights of the rewards.

    Raises:
        ValueError: A weight is negative; the message names it.
    """

    scale: float = 1.0  # alpha of (20), lambda_sem of (9)
    offset: float = 0.0  # beta of (20)
    absolute: float = 1.0  # w_abs of (16)
    progress: float = 1.0  # w_prog of (16)
    motion: float = 0.1  # w_mot of (16)
    lazy: float = 1.0  # w_lazy of (16)
    time: float = 0.01  # lambda_time of (16)
    tolerance: float = 0.01  # epsilon of (15): less progress counts as idling
    residual: float = 0.01  # lambda_res of (9)
    success: float = 0.0  # paid once, for the decision that succeeds

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "offset"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")


def linear_reward(similarity: np.ndarray, config: RewardConfig) -> np.ndarray:
    """Return alpha (similarity - beta).

    Source: equation (20).
    """
    return config.scale * (similarity - config.offset)


def semantic_match(next_similarity: np.ndarray, residual: np.ndarray, config: RewardConfig) -> np.ndarray:
    """Return the reward of a semantic match, (B,), its similarity mapped by (20).

    Args:
        next_similarity: Of F_t+1 to the successor of the recalled step, (B,); (8) where it is that of visual keys.
        residual: Executed chunk of residuals, (B, ...).
        config: Weights.

    Source: equations (8), (9).
    """
    size = np.square(residual).reshape(len(residual), -1).sum(axis=1)
    return linear_reward(next_similarity, config) - config.residual * size


def anti_idling(
    next_similarity: np.ndarray, current_similarity: np.ndarray, stay_similarity: np.ndarray, config: RewardConfig
) -> np.ndarray:
    """Return the reward with a penalty on idling, (B,), its absolute term mapped by (20).

    Args:
        next_similarity: s_next, of F_t+1 to the successor of the recalled step, (B,).
        current_similarity: s_cur, of F_t to the recalled step, (B,).
        stay_similarity: s_stay, of F_t+1 to F_t, (B,).
        config: Weights.

    Source: equations (15), (16).
    """
    progress = next_similarity - current_similarity
    idle = np.maximum(config.tolerance - progress, 0.0)
    return (
        config.absolute * linear_reward(next_similarity, config)
        + config.progress * np.maximum(progress, 0.0)
        + config.motion * (1.0 - stay_similarity)
        - config.lazy * next_similarity * idle * stay_similarity
        - config.time
    )


def sparse_reward(
    success: np.ndarray, potential: np.ndarray, next_potential: np.ndarray, gamma: float, config: RewardConfig
) -> np.ndarray:
    """Return the reward of success with potential-based shaping, (B,).

    Args:
        success: 1 for the decision that succeeds, else 0, (B,).
        potential: Of the present step, such as `Reference.potential`, (B,).
        next_potential: Of the next step; 0 after the end of an episode, (B,).
        gamma: Discount.
        config: Weights.

    Source: Ng, Harada and Russell, 1999.
    """
    return config.success * success + gamma * next_potential - potential


class Reference:
    """A rollout of the bank that an episode follows: chosen once, then one step further with each decision."""

    def __init__(self, length: int, start: int = 0) -> None:
        """Follow a rollout.

        Args:
            length: Steps of the rollout.
            start: The recalled step.

        Raises:
            ValueError: The start is not a step of the rollout.
        """
        if not 0 <= start < length:
            raise ValueError(f"start is {start}; a rollout of {length} steps has 0 to {length - 1}")
        self._length, self._start = length, start

    def step(self, elapsed: int) -> int:
        """Return the index of the step that belongs to the decision `elapsed` after the choice, at most the last."""
        return min(self._start + elapsed, self._length - 1)

    def successor(self, elapsed: int) -> int:
        """Return the index of the step after it."""
        return self.step(elapsed + 1)

    def potential(self, similarity: np.ndarray) -> float:
        """Return how far along the rollout the present step is, in [0, 1].

        It is the position of the most similar step of the rollout, times that similarity.

        Args:
            similarity: Of the present step to each step of the rollout, (length,).
        """
        best = int(np.argmax(similarity))
        return float(similarity[best] * (best + 1) / self._length)
