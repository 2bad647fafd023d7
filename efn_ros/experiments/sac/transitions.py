# SPDX-License-Identifier: MIT
"""From an episode to transitions with rewards, which the critics learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from efn_ros.bank import StoredRollout
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.replay import Transition, concatenate, tree_map
from efn_ros.experiments.sac.rewards import Reference, anti_idling, semantic_match, sparse_reward
from efn_ros.experiments.sac.similarity import StepSimilarity
from efn_ros.types import Observation, Outcome, PolicyStep

NO_REFERENCE = -1


@dataclass(frozen=True)
class ActorInput:
    """Inputs of the actor at B decisions, as arrays; the sketch of the present step stays int8."""

    present: Present  # the present step
    sketch_scale: np.ndarray  # float32 (B, T)
    recalled: Recalled  # padded to `nearest_steps` + `random_steps`


@dataclass(frozen=True)
class RecordedEpisode:
    """T decisions of an episode after its prefix."""

    observations: Sequence[Observation]  # T + 1, with the one in which it ended
    steps: Sequence[PolicyStep]  # T + 1
    inputs: Sequence[ActorInput]  # T + 1
    residuals: np.ndarray  # float32 (T, H, A), as they were executed
    success: bool  # as the world reports it
    control_steps: int  # with the prefix
    bank_rollouts: Sequence[StoredRollout]  # which could be recalled


def network_input(actor_input: ActorInput) -> tuple[Present, Recalled]:
    """Return what the network takes, float32."""
    sketch = actor_input.present.sketch * actor_input.sketch_scale[..., None]
    return replace(actor_input.present, sketch=sketch), actor_input.recalled


def read_transition(arrays: Mapping[str, Any]) -> Transition:
    """Return decisions whose arrays are given by name, as `leaves` returns them."""

    def inputs(name: str) -> ActorInput:
        return ActorInput(
            Present(*(arrays[f"{name}.present.{field.name}"] for field in fields(Present))),
            arrays[f"{name}.sketch_scale"],
            Recalled(*(arrays[f"{name}.recalled.{field.name}"] for field in fields(Recalled))),
        )

    rest = {name: arrays[name] for name in ("action", "reward", "done", "reference", "return_to_go")}
    return Transition(inputs("observation"), next_observation=inputs("next_observation"), **rest)


def transitions(config: FinetuneConfig, similarity: StepSimilarity, episode: RecordedEpisode) -> Transition:
    """Return the T decisions of an episode.

    The last one is done where the task succeeded, not where time ran out: there the next value counts.
    """
    reward, reference = rewards(config, similarity, episode)
    done = np.zeros(len(reward), bool)
    done[-1] = episode.success
    to_go = reward.copy()
    for t in reversed(range(len(reward) - 1)):
        to_go[t] += config.sac.gamma * to_go[t + 1]
    inputs = concatenate(episode.inputs)
    before, after = (tree_map(lambda _, x, part=part: x[part], inputs) for part in (slice(None, -1), slice(1, None)))
    return Transition(before, episode.residuals, reward, after, done, reference, to_go)


def rewards(
    config: FinetuneConfig, similarity: StepSimilarity, episode: RecordedEpisode
) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards, float32 (T,), and the index of the followed rollout with its step, int64 (T, 2).

    The reference is chosen at the first decision: the most similar step of all successes with the same instruction. It
    then advances with the episode (appendix B). Where the bank has none (-1), success alone is rewarded.

    Source: equation (14).
    """
    count, weights, instruction = (
        len(episode.residuals),
        config.reward_weights,
        episode.observations[0].context.instruction,
    )
    success = np.zeros(count)
    success[-1] = episode.success
    candidates = {
        i: similarity(episode.steps, similarity.of_rollout(rollout))
        for i, rollout in enumerate(episode.bank_rollouts)
        if rollout.record.outcome == Outcome.SUCCESS and rollout.record.instruction == instruction
    }
    if not candidates:
        return (weights.success * success).astype(np.float32), np.full((count, 2), NO_REFERENCE)
    index = max(candidates, key=lambda i: candidates[i][0].max())
    to_reference = candidates[index]  # (T + 1, length)
    reference = Reference(to_reference.shape[1], int(to_reference[0].argmax()))
    current, following = (np.array([step(t) for t in range(count)]) for step in (reference.step, reference.successor))
    if config.reward == "sparse":
        potential = np.array([reference.potential(row) for row in to_reference])
        after = np.where(success > 0, 0.0, potential[1:])
        reward = sparse_reward(success, potential[:-1], after, config.sac.gamma, weights)
    else:
        t = np.arange(count)
        next_similarity = to_reference[t + 1, following]
        if config.reward == "semantic":
            reward = semantic_match(next_similarity, episode.residuals, weights)
        else:
            stay = similarity(episode.steps, similarity.of(episode.steps))[t + 1, t]
            reward = anti_idling(next_similarity, to_reference[t, current], stay, weights)
        reward = reward + weights.success * success
    return reward.astype(np.float32), np.stack([np.full(count, index), current], axis=1)
