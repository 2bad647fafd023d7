# SPDX-License-Identifier: MIT
"""Recalled steps as retrieval returns them, and the predictions of a success model before each episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.retrieval.success_model import SuccessModel
from efn_ros.types import Experience, Experiences

DTYPES = {"step": np.uint32, "outcome": np.uint8, "rollout_length": np.uint32}
DTYPES |= dict.fromkeys(("similarity", "score", "probability"), np.float64)


def stack_experiences(*steps: Experience) -> Experiences:
    """Stack steps of equal sizes into columns."""
    if not steps:
        return Experiences()
    columns = {f.name: [getattr(step, f.name) for step in steps] for f in fields(Experience)}
    rollout_ids, instructions = tuple(columns.pop("rollout_id")), tuple(columns.pop("instruction"))
    arrays = {name: np.array(column, DTYPES.get(name, np.float32)) for name, column in columns.items()}
    return Experiences(rollout_ids, instruction=instructions, **arrays)


def prequential_predictions(episodes: Sequence[FollowedEpisode]) -> tuple[np.ndarray, np.ndarray]:
    """Predict each episode from those before it; the first ones, which have no prediction, are left out.

    Returns:
        Predictions, means over an episode's decisions, float64 (N,), and successes, bool (N,).
    """
    model, predictions, successes = SuccessModel(), [], []
    for episode in episodes:
        if (predicted := model.predict(episode)) is not None:
            predictions.append(float(predicted.mean()))
            successes.append(episode.success)
        model.add(episode)
    return np.array(predictions), np.array(successes, bool)
