# SPDX-License-Identifier: MIT
"""Whether a candidate network is better than the one in use, on held-out rollouts and in shadow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from efn_ros.efn.actor import Efn
from efn_ros.online.config import LearnConfig
from efn_ros.training.bank_dataset import MIN_BOUND, BankDataset

CORRECTED_SUCCESSES = "held-out successes that were corrected"


def validate_candidate(
    current: Efn,
    candidate: Efn,
    samples: BankDataset,
    config: LearnConfig,
    gain: float,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Compare what two networks propose in held-out decisions; nothing is executed.

    The verdict depends on successes that were corrected. Where the base policy alone succeeded the target is zero, and
    a network accepted for zero residuals would learn to propose none anywhere.

    Args:
        current: The network in use.
        candidate: The network to validate.
        samples: Held-out decisions.
        config: What the candidate must show.
        gain: Of the corrector.
        pause: Called between two pieces of work; may raise to interrupt.

    Returns:
        A report, ready for JSON.

        * accepted, reason: the verdict, and its reason in words.
        * successes: number of rollouts that it depends on.
        * error: mean absolute error of the residual against what was added, in units of the bound, averaged over the
            corrected decisions of each success, then over successes.
        * error_all: the same with the decisions of the base policy alone, weighted as in training.
        * change: of the residual over all decisions, failures included: mean and largest absolute value by dimension,
            in the action's units.
        * bound: the largest residual.
    """
    bound = (candidate.bound * gain).clamp(min=MIN_BOUND).numpy()
    residuals = [samples.residuals(efn, gain, config.batch_size, pause) for efn in (current, candidate)]
    size = np.abs(residuals[1] - residuals[0]).astype(np.float64)
    errors = [np.abs(r - np.clip(samples.target, -bound, bound)) / bound for r in residuals]
    every = samples.weights(config.base_weight)
    corrected = every * samples.corrected
    error, error_all = (
        [_mean_of_rollouts(e.mean(axis=(1, 2)), weight, samples.rollout) for e in errors]
        for weight in (corrected, every)
    )
    successes = len(set(samples.rollout[corrected > 0].tolist()))
    change = float((size.max(axis=(0, 1)) / bound).max())
    largest_error = error[0] * (1 - config.min_improvement)
    failures = [
        reason
        for fails, reason in (
            (not np.isfinite(size).all(), "its residuals are not finite"),
            (
                successes < config.min_held_out_successes,
                f"{successes} of {config.min_held_out_successes} {CORRECTED_SUCCESSES}",
            ),
            (
                not error[1] <= largest_error < error[0],
                f"error {error[0]:.4f} -> {error[1]:.4f}, at most {largest_error:.4f} is required",
            ),
            (
                error_all[1] > error_all[0],
                f"worse where the base alone succeeded: error of all {error_all[0]:.4f} -> {error_all[1]:.4f}",
            ),
            (
                not change <= config.max_change,
                f"a decision changes by {change:.2f} of the largest residual, at most {config.max_change:g} is allowed",
            ),
        )
        if fails
    ]
    passed = f"error {error[0]:.4f} -> {error[1]:.4f} in {successes} {CORRECTED_SUCCESSES}"
    return {
        "accepted": not failures,
        "reason": failures[0] if failures else passed,
        "successes": successes,
        "error": {"current": error[0], "candidate": error[1]},
        "error_all": {"current": error_all[0], "candidate": error_all[1]},
        "change": {
            "decisions": len(samples),
            "mean": size.mean(axis=(0, 1)).tolist(),
            "largest": size.max(axis=(0, 1)).tolist(),
            "bound": bound.tolist(),
        },
    }


def _mean_of_rollouts(values: np.ndarray, weight: np.ndarray, rollout: np.ndarray) -> float:
    """Mean over rollouts of each one's weighted mean; 0 where all weights are zero."""
    total = np.bincount(rollout, weight)
    counted = total > 0
    return float((np.bincount(rollout, weight * values)[counted] / total[counted]).mean()) if counted.any() else 0.0
