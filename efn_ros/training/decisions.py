# SPDX-License-Identifier: MIT
"""The decisions of stored rollouts as columns: what both kinds of training samples are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efn_ros.bank import StoredRollout
from efn_ros.bank.format.steps import previous_decisions, successors
from efn_ros.types import Outcome


def decision_columns(rollout: StoredRollout) -> dict[str, np.ndarray]:
    """Return the N decisions of a rollout.

    Returns:
        executed, base, executed_before (N, H, A); proprio, proprio_next, proprio_before (N, P); latent (N, L, dz);
        success (N,), of the rollout.
    """
    arrays = rollout.arrays
    executed_before, proprio_before = previous_decisions(arrays)
    return {
        "executed": arrays.executed,
        "base": arrays.base,
        "proprio": arrays.proprio,
        "proprio_next": arrays.proprio[successors(arrays.steps)],
        "executed_before": executed_before,
        "proprio_before": proprio_before,
        "latent": arrays.latent,
        "success": np.full(len(arrays.steps), rollout.record.outcome == Outcome.SUCCESS, np.float32),
    }


def concatenate(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the rows of all parts, one below the other; every part has the columns of the first."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
