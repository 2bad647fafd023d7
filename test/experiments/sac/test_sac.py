# SPDX-License-Identifier: MIT
"""Soft actor-critic: each equation against an independent reference, then learning against another library."""

import importlib.util
import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_sac import (
    CONFIG,
    A,
    ConstantActor,
    H,
    TableCritics,
    batch,
    entropy_of_squashed,
    make_sac,
    rows_of,
    same,
    tensors,
    weights,
)
from torch import nn

from efn_ros.experiments.sac.config import SacConfig
from efn_ros.experiments.sac.sac import Sac

BENCH = Path(__file__).parents[3] / "bench"

# The policy


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 100))
def test_residuals_stay_within_their_share_of_the_bound(xi, seed):
    sac = make_sac(replace(CONFIG, seed=seed))
    nn.init.normal_(sac.actor.layers[-1].weight, std=10.0)
    sac.xi = xi
    action = sac.act(batch(seed=seed).observation)
    assert action.shape == (8, H, A) and (action.abs() <= xi * torch.tensor(CONFIG.bound)).all()


def test_a_deterministic_residual_is_the_mean_squashed_and_bounded():
    sac, observation = make_sac(), batch().observation
    mean, _ = sac.actor(torch.from_numpy(observation[0]))
    sac.xi = 0.5
    torch.testing.assert_close(
        sac.act(observation, deterministic=True), 0.5 * torch.tensor(CONFIG.bound) * torch.tanh(mean).detach()
    )


def test_neither_units_nor_xi_change_the_density():
    densities = []
    for bound, xi in (((0.5, 0.25), 1.0), ((50.0, 1.0), 0.0)):
        sac = make_sac(replace(CONFIG, bound=bound))
        sac.xi = xi
        densities.append(sac.sample(tensors(batch()).observation)[1])
    assert torch.equal(*densities)


# Temperature


@pytest.mark.parametrize("target, direction", [(0.69, 1), (-9.0, -1), (None, 0)])
def test_the_temperature_rises_while_the_entropy_is_below_its_target(target, direction):
    sac = make_sac(replace(CONFIG, target_entropy=target, weight_decay=0.5))
    before = sac.temperature
    sac.update(batch())
    assert (sac.temperature - before).sign() == direction


def test_the_target_entropy_counts_all_degrees_of_freedom_of_a_chunk():
    """Adam's first moment after one update is a tenth of the gradient, which tells the target."""
    sac = make_sac(replace(CONFIG, target_entropy=-0.25))
    entropy = sac.update(batch())["entropy"]
    moment = sac.state_dict()["actor_optimiser.log_temperature.exp_avg"]
    assert moment == pytest.approx(0.1 * (entropy.item() + 0.25 * H * A), rel=1e-4)


# Targets and critics


def test_the_soft_target_of_a_tiny_world_is_that_computed_by_hand():
    sac = Sac(
        SacConfig(bound=(1.0,), gamma=0.5, temperature=1e-12),
        ConstantActor(),
        TableCritics([[1.0, 4.0, 9.0], [2.0, 3.0, 7.0]]),
    )
    rows = rows_of([0, 0, 1], [0.5, 1.0, -2.0], [1, 2, 0], [False, True, False])
    expected = torch.tensor([0.5 + 0.5 * min(4.0, 3.0), 1.0, -2.0 + 0.5 * min(1.0, 2.0)])
    torch.testing.assert_close(sac.soft_target(rows), expected)


def test_the_soft_target_contains_the_entropy():
    alpha, gamma, std, count = 0.3, 0.5, 0.8, 40_000
    sac = Sac(
        SacConfig(bound=(7.0,), gamma=gamma, temperature=alpha),
        ConstantActor(0.0, math.log(std)),
        TableCritics([[2.0]] * 2),
    )
    found = sac.soft_target(rows_of([0] * count, [1.0] * count, [0] * count, [False] * count)).mean()
    assert found == pytest.approx(1.0 + gamma * (2.0 + alpha * entropy_of_squashed(std)), abs=5e-3)


def test_critics_converge_to_the_soft_values_of_a_chain():
    """0 -> 1 -> end, paid 0 and 1: Q(1) = 1 and Q(0) = gamma (Q(1) + alpha H)."""
    alpha, gamma, std, size = 0.2, 0.9, 0.5, 256
    config = SacConfig(
        bound=(1.0,), gamma=gamma, temperature=alpha, target_entropy=None, learning_rate=0.02, polyak=0.1
    )
    sac = Sac(config, ConstantActor(0.0, math.log(std)), TableCritics([[5.0, -3.0], [0.0, 2.0]]))
    chain = rows_of([0, 1] * size, [0.0, 1.0] * size, [1, 0] * size, [False, True] * size)
    for _ in range(600):
        sac.warm_start(chain)
    expected = [gamma * (1 + alpha * entropy_of_squashed(std)), 1.0]
    np.testing.assert_allclose(sac.critics.values.detach().numpy(), [expected] * 2, atol=0.02)


def test_of_many_critics_the_minimum_of_two_drawn_ones_counts():
    values = [3.0, 1.0, 4.0, 1.5]
    sac = Sac(
        SacConfig(bound=(1.0,), gamma=1.0, temperature=1e-12), ConstantActor(), TableCritics([[v] for v in values])
    )
    drawn = {sac.soft_target(rows_of([0], [0.0], [0], [False])).item() for _ in range(200)}
    assert drawn == {min(pair) for pair in combinations(values, 2)}


def test_targets_are_a_moving_average_of_the_critics():
    sac = make_sac(replace(CONFIG, polyak=0.1, learning_rate=0.1))
    before = weights(sac.targets)
    sac.update(batch())
    expected = [0.9 * old + 0.1 * new for old, new in zip(before, weights(sac.critics), strict=True)]
    for found, wanted in zip(weights(sac.targets), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not any(t.requires_grad for t in sac.targets.parameters())


def test_the_critic_loss_is_equation_12():
    sac = make_sac(replace(CONFIG, temperature=1e-12))
    rows = replace(batch(), done=np.ones(8, bool))
    values = sac.critics(*tensors(rows).observation, tensors(rows).action).detach().numpy()
    expected = sum(np.mean((v - rows.reward) ** 2) for v in values)
    assert sac.update(rows)["critic_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_actor_loss_is_equation_13():
    """Along the slope of the critics by hand: of -Q, with almost no entropy to win."""
    sac = Sac(
        SacConfig(bound=(2.0,), temperature=1e-12), ConstantActor(0.3, -20.0), TableCritics([[0.0]] * 2, slope=1.5)
    )
    sac.update(rows_of([0], [0.0], [0], [True]))
    gradient = sac.state_dict()["actor_optimiser.mean.exp_avg"].item() / 0.1
    assert gradient == pytest.approx(-1.5 * 2.0 * (1 - math.tanh(0.3) ** 2), rel=1e-4)


@pytest.mark.parametrize("every", [1, 3])
def test_the_actor_is_updated_every_so_many_updates(every):
    sac, moved = make_sac(replace(CONFIG, actor_every=every)), []
    for i in range(6):
        before = weights(sac.actor)
        sac.update(batch(seed=i))
        moved.append(not same(before, weights(sac.actor)))
    assert moved == [(i + 1) % every == 0 for i in range(6)]


def test_a_warm_start_updates_the_critics_alone():
    sac = make_sac(replace(CONFIG, conservative_weight=1.0))
    actor, critics, temperature = weights(sac.actor), weights(sac.critics), sac.temperature
    sac.warm_start(batch())
    assert same(actor, weights(sac.actor)) and temperature == sac.temperature
    assert not same(critics, weights(sac.critics))


def test_the_actor_may_have_a_learning_rate_of_its_own():
    """Adam's first step is as long as the learning rate."""
    sac = make_sac(replace(CONFIG, learning_rate=1e-3, actor_learning_rate=1e-5))
    before = {part: weights(module) for part, module in (("actor", sac.actor), ("critics", sac.critics))}
    temperature = sac.log_temperature.item()
    sac.update(batch())
    for part, module, rate in (("actor", sac.actor, 1e-5), ("critics", sac.critics, 1e-3)):
        moved = max((a - b).abs().max().item() for a, b in zip(before[part], weights(module), strict=True))
        assert moved == pytest.approx(rate, rel=0.05)
    assert abs(sac.log_temperature.item() - temperature) == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_the_proximal_weight_holds_the_mean_against_the_critics(weight):
    config = SacConfig(bound=(1.0,), temperature=1e-12, learning_rate=0.05, proximal_weight=weight)
    sac = Sac(config, ConstantActor(0.2, -5.0), TableCritics([[0.0]] * 2, slope=1.5), proximal_actor=ConstantActor(0.2))
    for _ in range(100):
        sac.update(rows_of([0], [0.0], [0], [True]))
    moved = (torch.tanh(sac.actor.mean) - math.tanh(0.2)).item()
    if weight:  # where -1.5 + 2 weight moved = 0
        assert moved == pytest.approx(1.5 / (2 * weight), rel=0.1)
    else:
        assert moved > 0.5


def test_gradients_are_clipped_to_the_largest_norm():
    sac = make_sac(replace(CONFIG, max_gradient_norm=1e-3))
    sac.update(batch())
    state = sac.state_dict().items()
    moments = [t for name, t in state if name.startswith("critics_optimiser") and name.endswith("exp_avg")]
    assert math.sqrt(sum((t / 0.1).square().sum().item() for t in moments)) == pytest.approx(1e-3, rel=1e-3)


# Disagreement


def test_disagreement_is_the_standard_deviation_over_the_critics():
    sac = Sac(SacConfig(bound=(1.0,)), ConstantActor(), TableCritics([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]]))
    rows = rows_of([0, 1], [0, 0], [0, 0], [True, True])
    expected = [np.std([1.0, 3.0, 8.0]), 0.0]
    np.testing.assert_allclose(sac.disagreement(rows.observation, rows.action), expected, rtol=1e-6)


# What is refused


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("gamma", 1.5, "gamma is 1.5; it must be above 0 and at most 1"),
        ("polyak", 0.0, "polyak is 0.0"),
        ("temperature", math.nan, "temperature is nan"),
        ("learning_rate", math.inf, "learning_rate is inf"),
        ("actor_learning_rate", 0.0, "actor_learning_rate is 0.0; it must be above 0"),
        ("subset", 0, "subset is 0; it must be finite and at least 1"),
        ("proximal_weight", -1.0, "proximal_weight is -1.0; it must be finite and at least 0"),
        ("max_gradient_norm", -1.0, "max_gradient_norm is -1.0; it must be finite and at least 0"),
        ("bound", (0.5, math.nan), r"bound is \(0.5, nan\); each dimension of an action needs one"),
        ("bound", (), r"bound is \(\)"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reward": np.zeros((8, 1), np.float32)}, r"reward has shape \(8, 1\); the batch needs \(8,\)"),
        ({"done": np.zeros(7, bool)}, r"done has shape \(7,\)"),
        ({"return_to_go": np.zeros((8, 1), np.float32)}, "return_to_go has shape"),
        ({"action": np.zeros((8, H, 3), np.float32)}, "action has 3 dimensions; bound has 2"),
    ],
)
def test_a_batch_that_would_broadcast_is_refused_by_name(change, words):
    for learn in (make_sac().update, make_sac().warm_start):
        with pytest.raises(ValueError, match=words):
            learn(replace(batch(), **change))


# Learning


def test_it_learns_pendulum_as_well_as_stable_baselines3():
    """Of the way from an untrained policy to Stable-Baselines3's, measured over several seeds by bench/sac.py with the
    same networks, hyperparameters and steps, at least nine tenths; without a single update nothing of it."""
    spec = importlib.util.spec_from_file_location("bench_sac", BENCH / "sac.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    measured = json.loads((BENCH / "results" / "sac.json").read_text())["learning"]
    assert {name: measured[name] for name in bench.LEARNING} == bench.LEARNING
    low, high = (np.mean(measured["returns"][name]) for name in ("untrained", bench.OTHER))
    torch.set_num_threads(1)
    enough = low + 0.9 * (high - low)
    assert bench.evaluate(bench.learn(0, steps=0)) < enough <= bench.evaluate(bench.learn(0))
