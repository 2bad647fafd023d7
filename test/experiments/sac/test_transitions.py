# SPDX-License-Identifier: MIT
"""Rewards of an episode, from its similarity to the rollout that it follows."""

from dataclasses import replace

import numpy as np
import pytest
from sample_finetuning import A, H, make_finetuning, run_robot, zero_residual

from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.rewards import Reference, RewardConfig
from efn_ros.experiments.sac.similarity import StepSimilarity
from efn_ros.experiments.sac.transitions import rewards, transitions
from efn_ros.types import Outcome


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    return make_finetuning(tmp_path_factory.mktemp("run"))


@pytest.mark.simulator
def test_the_reference_is_chosen_once_and_then_advances(settings):
    episode, compare = run_robot(settings, zero_residual, prefix=0.1)
    _, reference = rewards(settings, compare, episode)
    rollout, step = reference.T
    length = len(episode.bank_rollouts[rollout[0]].arrays.steps)
    assert episode.bank_rollouts[rollout[0]].record.outcome == Outcome.SUCCESS and len(set(rollout)) == 1
    assert step[0] > 0  # after the prefix the first step of the rollout is not the most similar
    np.testing.assert_array_equal(step, np.minimum(step[0] + np.arange(len(step)), length - 1))
    alone = replace(episode, bank_rollouts=())
    reward, reference = rewards(settings, compare, alone)
    assert (reference == -1).all() and reward.tolist() == [0.0] * (len(reward) - 1) + [1.0]


@pytest.mark.simulator
def test_the_potential_cancels_over_an_episode(settings):
    gamma = settings.sac.gamma
    episode, compare = run_robot(settings, zero_residual)
    reward, reference = rewards(settings, compare, episode)
    followed = compare.of_rollout(episode.bank_rollouts[reference[0, 0]])
    similarity = compare(episode.steps[:1], followed)
    first = Reference(similarity.shape[1]).potential(similarity[0])
    discounts = gamma ** np.arange(len(reward))
    assert discounts @ reward == pytest.approx(discounts[-1] - first, abs=1e-4) and 0 < first < 1
    to_go = transitions(settings, compare, episode).return_to_go
    assert to_go[0] == pytest.approx(discounts @ reward, abs=1e-4) and to_go[-1] == reward[-1]


@pytest.mark.simulator
@pytest.mark.parametrize("similarity", ["fused", "key", "sinkhorn"])
def test_the_papers_rewards_follow_from_the_similarity_to_the_reference(settings, similarity):
    episode, _ = run_robot(settings, zero_residual)
    short = replace(
        episode, steps=[*episode.steps[:2], episode.steps[-1]], residuals=episode.residuals[:2] + 0.1, success=False
    )
    compare = StepSimilarity(similarity, np.full(4, 0.1, np.float32))
    weights = RewardConfig(success=1.0)
    config = replace(settings, similarity=similarity, reward_weights=weights)
    _, reference = rewards(replace(config, reward="semantic"), compare, short)
    to_reference = compare(short.steps, compare.of_rollout(short.bank_rollouts[reference[0, 0]]))
    count, own = np.arange(len(reference)), compare(short.steps, compare.of(short.steps))
    next_, current = to_reference[count + 1, reference[:, 1] + 1], to_reference[count, reference[:, 1]]
    stay = own[count + 1, count]
    assert ((next_ >= 0) & (next_ <= 1)).all() and (np.diag(own) > 0.9).all()
    semantic, _ = rewards(replace(config, reward="semantic"), compare, short)
    np.testing.assert_allclose(semantic, next_ - weights.residual * H * A * 0.01, atol=1e-5)
    idle = next_ * np.maximum(weights.tolerance - (next_ - current), 0) * stay
    expected = next_ + np.maximum(next_ - current, 0) + 0.1 * (1 - stay) - idle - 0.01
    np.testing.assert_allclose(rewards(replace(config, reward="anti_idling"), compare, short)[0], expected, atol=1e-5)
