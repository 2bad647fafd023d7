"""From an episode to transitions with rewards: what the critics learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from efn_ros.bank import StoredRollout
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.replay import Transition, Tree, leaves, tree_map
from efn_ros.experiments.sac.rewards import Reference, anti_idling, semantic_match, sparse
from efn_ros.experiments.sac.similarity import StepSimilarity
from efn_ros.types import Observation, Outcome, PolicyStep

NO_REFERENCE = -1


@dataclass(frozen=True)
class ActorInput:
    """Inputs of the actor at decisions, each (B, ...): as the network takes them, but the sketch stays int8."""

    present: Present
    sketch_scale: np.ndarray  # float32 (B, T)
    recalled: Recalled  # padded to `nearest_steps` + `random_steps`


EMPTY_INPUT = ActorInput(Present(*[""] * 4), "", Recalled(*[""] * len(fields(Recalled))))
STRUCTURE = Transition(EMPTY_INPUT, "", "", EMPTY_INPUT, "", "", "")  # of what is replayed


@dataclass(frozen=True)
class Experienced:
    """T decisions of an episode after its prefix."""

    observations: Sequence[Observation]  # T + 1, the last one is where it ended
    steps: Sequence[PolicyStep]  # T + 1
    inputs: Sequence[ActorInput]  # T + 1
    residuals: np.ndarray  # float32 (T, H, A), as they were executed
    success: bool
    length: int  # control steps, the prefix counted
    remembered: Sequence[StoredRollout]  # for recall


def network_input(taken: ActorInput) -> tuple[Present, Recalled]:
    """Return what the network takes, float32."""
    sketch = taken.present.sketch * taken.sketch_scale[..., None]
    return replace(taken.present, sketch=sketch), taken.recalled


def transitions(config: FinetuneConfig, similarity: StepSimilarity, episode: Experienced) -> Transition:
    """Return the T decisions of an episode. It is done where the task is; where time ran out, what follows counts."""
    reward, reference = rewards(config, similarity, episode)
    done = np.zeros(len(reward), bool)
    done[-1] = episode.success
    to_go = reward.copy()
    for t in reversed(range(len(reward) - 1)):
        to_go[t] += config.sac.gamma * to_go[t + 1]
    taken = concatenate(episode.inputs)
    before, after = (tree_map(lambda _, x, part=part: x[part], taken) for part in (slice(None, -1), slice(1, None)))
    return Transition(before, episode.residuals, reward, after, done, reference, to_go)


def rewards(config: FinetuneConfig, similarity: StepSimilarity, episode: Experienced) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards float32 (T,), and which remembered rollout was followed and its step, int64 (T, 2).

    The reference is chosen at the first decision, the most similar step of all successes of the same task, and then
    advances with the episode (appendix B). Where memory has none (-1) success alone is rewarded.
    """
    count, shaping, instruction = len(episode.residuals), config.shaping, episode.observations[0].context.instruction
    success = np.zeros(count)
    success[-1] = episode.success
    own, candidates = similarity.of(episode.steps), {}
    for i, rollout in enumerate(episode.remembered):
        if rollout.record.outcome == Outcome.SUCCESS and rollout.record.instruction == instruction:
            candidates[i] = similarity(own, similarity.of_rollout(rollout))
    if not candidates:
        return (shaping.success * success).astype(np.float32), np.full((count, 2), NO_REFERENCE)
    index = max(candidates, key=lambda i: candidates[i][0].max())
    to_reference = candidates[index]  # (T + 1, length)
    reference = Reference(to_reference.shape[1], int(to_reference[0].argmax()))
    at, to = (np.array([step(t) for t in range(count)]) for step in (reference.step, reference.successor))
    if config.reward == "sparse":
        potential = np.array([reference.potential(row) for row in to_reference])
        after = np.where(success > 0, 0.0, potential[1:])
        reward = sparse(success, potential[:-1], after, config.sac.gamma, shaping)
    else:
        t = np.arange(count)
        following = to_reference[t + 1, to]
        if config.reward == "semantic":
            reward = semantic_match(following, episode.residuals, shaping)
        else:
            stay = similarity(own, own)[t + 1, t]
            reward = anti_idling(following, to_reference[t, at], stay, shaping)
        reward = reward + shaping.success * success
    return reward.astype(np.float32), np.stack([np.full(count, index), at], axis=1)


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Return the rows of all trees, one after the other."""
    parts = [leaves(tree) for tree in trees]
    return tree_map(lambda name, _: np.concatenate([part[name] for part in parts]), trees[0])
