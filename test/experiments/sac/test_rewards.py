# SPDX-License-Identifier: MIT
"""Rewards: the paper's equations against closed forms, and the failures of appendix E that must not return."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efn_ros.experiments.sac.rewards import (
    Reference,
    RewardConfig,
    anti_idling,
    linear_reward,
    semantic_match,
    sparse_reward,
)

similarity = st.floats(0, 1)
one = lambda value: np.array([value])  # noqa: E731


@given(similarity, st.floats(0, 10), st.floats(-1, 1))
def test_the_map_of_similarity_is_linear(similarity, scale, offset):
    assert linear_reward(one(similarity), RewardConfig(scale=scale, offset=offset)) == pytest.approx(
        scale * (similarity - offset)
    )


@given(similarity, st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(0, 1))
def test_a_semantic_match_is_rewarded_and_a_residual_costs_its_square(similarity, residual, weight):
    found = semantic_match(one(similarity), np.array(residual).reshape(1, 2, 2), RewardConfig(residual=weight))
    assert found == pytest.approx(similarity - weight * sum(r**2 for r in residual))


@given(similarity, similarity, similarity)
def test_anti_idling_is_equation_16(next_, current, stay):
    config = RewardConfig(absolute=0.7, progress=1.3, motion=0.2, lazy=2.0, time=0.05, tolerance=0.1)
    idle = max(0.1 - (next_ - current), 0)
    expected = 0.7 * next_ + 1.3 * max(next_ - current, 0) + 0.2 * (1 - stay) - 2.0 * next_ * idle * stay
    assert anti_idling(one(next_), one(current), one(stay), config) == pytest.approx(expected - 0.05)


def test_idling_at_a_high_similarity_earns_less_than_progress():
    config = RewardConfig(absolute=0.0, time=0.0)
    idling = anti_idling(one(0.9), one(0.9), one(1.0), config)
    progress = anti_idling(one(0.9), one(0.85), one(0.9), config)
    assert idling < 0 < progress


def test_a_batch_equals_its_rows():
    rng = np.random.default_rng(0)
    columns = rng.uniform(size=(3, 20))
    together = anti_idling(*columns, RewardConfig())
    assert together == pytest.approx(
        np.concatenate([anti_idling(*(c[i : i + 1] for c in columns), RewardConfig()) for i in range(20)])
    )


# The failures of appendix E


def test_similarities_in_a_narrow_range_are_spread_and_keep_their_ranking():
    """All similarities lie in [0.87, 0.93]; the running mean of (42) makes most of the rewards negative."""
    rng = np.random.default_rng(0)
    similarity = np.sort(rng.uniform(0.87, 0.93, 200))[::-1]  # the best come first
    mean = np.cumsum(similarity) / np.arange(1, 201)
    assert (similarity - mean < 0).mean() > 0.9
    mapped = linear_reward(similarity, RewardConfig(scale=1 / 0.06, offset=0.87))
    assert mapped.min() >= 0 and np.ptp(mapped) > 0.9 and np.var(mapped) > 100 * np.var(similarity)
    assert (np.argsort(mapped) == np.argsort(similarity)).all()
    # The reward of a step does not depend on the steps before it.
    order = rng.permutation(200)
    assert linear_reward(similarity[order], RewardConfig(scale=1 / 0.06, offset=0.87)) == pytest.approx(mapped[order])


@given(st.integers(1, 50), st.data())
def test_the_reference_is_chosen_once_and_advances_one_step_at_a_time(length, data):
    reference = Reference(length, data.draw(st.integers(0, length - 1)))
    path = [reference.step(elapsed) for elapsed in range(length + 5)]
    assert all(0 <= later - earlier <= 1 for earlier, later in zip(path, path[1:], strict=False))
    assert path[-1] == length - 1
    assert [reference.successor(elapsed) for elapsed in range(length + 4)] == path[1:]


def test_a_start_outside_the_rollout_is_refused():
    with pytest.raises(ValueError, match="start is 3; a rollout of 3 steps has 0 to 2"):
        Reference(3, 3)


# Potentials


@given(st.lists(similarity, min_size=2, max_size=20), st.floats(0.5, 1.0))
def test_the_shaping_of_an_episode_is_minus_its_first_potential(potentials, gamma):
    """Discounted and summed, whatever is between."""
    before, after = np.array(potentials), np.array([*potentials[1:], 0.0])
    rewards = sparse_reward(np.zeros(len(before)), before, after, gamma, RewardConfig())
    total = float(np.sum(rewards * gamma ** np.arange(len(before))))
    assert total == pytest.approx(-potentials[0], abs=1e-9)


def test_success_is_rewarded_once():
    rewards = sparse_reward(np.array([0.0, 0.0, 1.0]), np.zeros(3), np.zeros(3), 0.98, RewardConfig(success=5.0))
    assert rewards.tolist() == [0.0, 0.0, 5.0]


def test_progress_along_the_reference_raises_the_potential():
    reference, steps = Reference(5), np.eye(5) * 0.5 + 0.4
    values = [reference.potential(similarity) for similarity in steps]
    assert values == pytest.approx([0.9 * (i + 1) / 5 for i in range(5)])


@pytest.mark.parametrize("name", ["scale", "lazy", "time", "tolerance", "success"])
def test_a_negative_weight_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        RewardConfig(**{name: -1})
