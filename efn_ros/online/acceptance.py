"""Whether a candidate network is better than the one in use, on held-out rollouts and in shadow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from efn_ros.efn.actor import Efn
from efn_ros.online.config import LearnConfig
from efn_ros.training.bank_dataset import SMALLEST_BOUND, Lessons

CORRECTED_SUCCESSES = "held-out successes that were corrected"


def prove(
    current: Efn,
    candidate: Efn,
    lessons: Lessons,
    config: LearnConfig,
    gain: float,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """What both networks make of held-out decisions, in shadow, and whether the candidate is better; ready for JSON.

    It rests on successes that were corrected: where the base alone succeeded silence is always right, and to prove a
    network by that would teach it to be silent everywhere.

    proven, reason: the verdict, in words. successes: rollouts that it rests on. error: of the residual in corrected
    decisions against what was added, mean absolute share of the bound, the mean of the successes' means; error_all:
    with the decisions of the base alone, weighted as in training. change: |candidate - current| over all decisions,
    failures too: mean and largest by dimension, in the action's units; bound: the largest residual.
    """
    bound = (candidate.bound * gain).clamp(min=SMALLEST_BOUND).numpy()
    said = [lessons.residuals(efn, gain, config.batch, pause) for efn in (current, candidate)]
    size = np.abs(said[1] - said[0]).astype(np.float64)
    missed = [np.abs(one - np.clip(lessons.target, -bound, bound)) / bound for one in said]
    every = lessons.weight(config.anchor)
    corrected = every * lessons.corrected
    error, error_all = (
        [_over_rollouts(one.mean(axis=(1, 2)), weight, lessons.rollout) for one in missed]
        for weight in (corrected, every)
    )
    successes = len(set(lessons.rollout[corrected > 0].tolist()))
    share = float((size.max(axis=(0, 1)) / bound).max())
    most = error[0] * (1 - config.margin)
    failed = [
        why
        for fails, why in (
            (not np.isfinite(size).all(), "it says what is not finite"),
            (successes < config.least_held_out, f"{successes} of {config.least_held_out} {CORRECTED_SUCCESSES}"),
            (not error[1] <= most < error[0], f"error {error[0]:.4f} -> {error[1]:.4f}, asked for is {most:.4f}"),
            (
                error_all[1] > error_all[0],
                f"worse where the base alone succeeded: error of all {error_all[0]:.4f} -> {error_all[1]:.4f}",
            ),
            (
                not share <= config.most_change,
                f"a decision changes by {share:.2f} of the largest residual, allowed is {config.most_change:g}",
            ),
        )
        if fails
    ]
    reason = failed[0] if failed else f"error {error[0]:.4f} -> {error[1]:.4f} in {successes} {CORRECTED_SUCCESSES}"
    return {
        "proven": not failed,
        "reason": reason,
        "successes": successes,
        "error": {"current": error[0], "candidate": error[1]},
        "error_all": {"current": error_all[0], "candidate": error_all[1]},
        "change": {
            "decisions": len(lessons),
            "mean": size.mean(axis=(0, 1)).tolist(),
            "largest": size.max(axis=(0, 1)).tolist(),
            "bound": bound.tolist(),
        },
    }


def _over_rollouts(values: np.ndarray, weight: np.ndarray, rollout: np.ndarray) -> float:
    """Weighted mean of each rollout, and the mean of those; 0 where nothing has weight."""
    total = np.bincount(rollout, weight)
    counted = total > 0
    return float((np.bincount(rollout, weight * values)[counted] / total[counted]).mean()) if counted.any() else 0.0
