"""Rewards of an episode, out of its similarity to the rollout that it follows."""

from dataclasses import replace

import numpy as np
import pytest
from sample_finetuning import A, H, filled, nothing, run

from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.rewards import Reference, Shaping
from efn_ros.experiments.sac.similarity import StepSimilarity
from efn_ros.experiments.sac.transitions import rewards, transitions
from efn_ros.types import Outcome


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    return filled(tmp_path_factory.mktemp("run"))


@pytest.mark.simulator
def test_what_is_followed_is_chosen_once_and_then_advances(settings):
    episode, compare = run(settings, nothing, prefix=0.1)
    _, reference = rewards(settings, compare, episode)
    rollout, step = reference.T
    length = len(episode.remembered[rollout[0]].arrays.steps)
    assert episode.remembered[rollout[0]].record.outcome == Outcome.SUCCESS and len(set(rollout)) == 1
    assert step[0] > 0  # memory's beginning is not like what comes after the prefix
    np.testing.assert_array_equal(step, np.minimum(step[0] + np.arange(len(step)), length - 1))
    alone = replace(episode, remembered=())
    reward, reference = rewards(settings, compare, alone)
    assert (reference == -1).all() and reward.tolist() == [0.0] * (len(reward) - 1) + [1.0]


@pytest.mark.simulator
def test_the_potential_cancels_over_an_episode_whatever_is_done_in_it(settings):
    gamma = settings.sac.gamma
    episode, compare = run(settings, nothing)
    reward, reference = rewards(settings, compare, episode)
    followed = compare.of_rollout(episode.remembered[reference[0, 0]])
    similarity = compare(compare.of(episode.steps[:1]), followed)
    first = Reference(similarity.shape[1]).potential(similarity[0])
    discounts = gamma ** np.arange(len(reward))
    assert discounts @ reward == pytest.approx(discounts[-1] - first, abs=1e-4) and 0 < first < 1
    to_go = transitions(settings, compare, episode).return_to_go
    assert to_go[0] == pytest.approx(discounts @ reward, abs=1e-4) and to_go[-1] == reward[-1]


@pytest.mark.simulator
@pytest.mark.parametrize("similarity", ["fused", "key", "sinkhorn"])
def test_the_papers_rewards_are_those_of_the_similarity_to_what_is_followed(settings, similarity):
    episode, _ = run(settings, nothing)
    short = replace(
        episode, steps=[*episode.steps[:2], episode.steps[-1]], residuals=episode.residuals[:2] + 0.1, success=False
    )
    compare = StepSimilarity(similarity, np.full(4, 0.1, np.float32))
    shaping = Shaping(success=1.0)
    config = replace(settings, similarity=similarity, shaping=shaping)
    cues = compare.of(short.steps)
    _, reference = rewards(replace(config, reward="semantic"), compare, short)
    to_reference = compare(cues, compare.of_rollout(short.remembered[reference[0, 0]]))
    count, own = np.arange(len(reference)), compare(cues, cues)
    following, present = to_reference[count + 1, reference[:, 1] + 1], to_reference[count, reference[:, 1]]
    stay = own[count + 1, count]
    assert ((following >= 0) & (following <= 1)).all() and (np.diag(own) > 0.9).all()
    semantic, _ = rewards(replace(config, reward="semantic"), compare, short)
    np.testing.assert_allclose(semantic, following - shaping.residual * H * A * 0.01, atol=1e-5)
    idle = following * np.maximum(shaping.tolerance - (following - present), 0) * stay
    expected = following + np.maximum(following - present, 0) + 0.1 * (1 - stay) - idle - 0.01
    np.testing.assert_allclose(rewards(replace(config, reward="anti_idling"), compare, short)[0], expected, atol=1e-5)
