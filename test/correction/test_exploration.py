# SPDX-License-Identifier: MIT
"""Exploration: bounded, smooth, the same for the same seed and step, and only where it may be."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sample_recalls import stack_experiences

from efn_ros.correction.exploration import (
    MIN_PERIOD_S,
    MODES,
    OFF,
    Exploration,
    actor_sampler,
    failure_probability,
    other_step,
    sine_noise,
)
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import EfnConfig
from efn_ros.types import Experience, Outcome, PolicyStep, Quantised, Recall, StepContext

SIZE, HORIZON, RATE_HZ, STEPS = 2, 4, 20.0, 3
BOUND = np.array([0.3, 0.6], np.float32)
EPS = float(np.finfo(np.float32).eps)
TOKENS = Quantised(np.ones((2, 4), np.int8), np.ones(2, np.float32))


def step(index=0, seed=0, base=None, **flags) -> PolicyStep:
    context = StepContext("e0", index, 0, "reach", "reach the goal", seed, **flags)
    base = np.zeros((HORIZON, SIZE), np.float32) if base is None else base
    return PolicyStep(context, base, TOKENS, TOKENS, np.ones((2, 3), np.float32), np.zeros(0), np.ones(3, np.float32))


def experience(value, probability=0.0, outcome=Outcome.SUCCESS, horizon=HORIZON) -> Experience:
    chunk, proprio = np.full((horizon, SIZE), value, np.float32), np.ones(3, np.float32)
    latent = np.ones(3, np.float32)
    return Experience(
        f"r{value}",
        0,
        "reach",
        outcome,
        8,
        chunk,
        chunk,
        proprio,
        proprio,
        chunk,
        proprio,
        latent,
        0.8,
        0.8,
        probability,
    )


def recall(*steps, selected=0, confidence=0.2) -> Recall:
    steps = steps or (experience(0.5, 0.7), experience(-0.5, 0.3))
    return Recall(stack_experiences(*steps), selected=selected, confidence=confidence)


FAILING = recall(experience(0.5, 0.4), experience(-0.5, 0.6, Outcome.FAILURE))


def shifted(step, recall, rng):
    """A sampler that draws something."""
    return rng.standard_normal(step.base.shape, dtype=np.float32)


def exploration(mode="noise", **settings) -> Exploration:
    values = {"scale": 0.5, "max_confidence": 0.5, "episode_fraction": 1.0, "control_steps": STEPS, "rate_hz": RATE_HZ}
    return Exploration(**{"mode": mode, "bound": BOUND, "sampler": shifted, **values, **settings})


NOTHING = np.zeros((HORIZON, SIZE), np.float32)


# How far


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.floats(0, 1), st.data())
def test_a_change_is_no_larger_than_its_share_of_the_bound(mode, seed, index, scale, data):
    elements = st.floats(-1, 1, width=32)
    base, residual = (data.draw(hnp.arrays(np.float32, (HORIZON, SIZE), elements=elements)) for _ in range(2))
    explored, _ = exploration(mode, scale=scale)(step(index, seed, base), FAILING, residual)
    assert explored.dtype == np.float32 and explored.shape == residual.shape
    assert (np.abs(explored.astype(np.float64) - residual) <= scale * BOUND + EPS).all()


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_the_same_seed_and_step_give_the_same_change_in_any_object(mode, seed, index):
    first, again = (exploration(mode)(step(index, seed), FAILING, NOTHING) for _ in range(2))
    assert first[0].tobytes() == again[0].tobytes() and first[1] == again[1]


def test_another_seed_gives_another_change():
    changes = {exploration()(step(3, seed), recall(), NOTHING)[0].tobytes() for seed in range(20)}
    assert len(changes) == 20


# Noise


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_noise_is_within_one_and_smooth(seed, first):
    noise = sine_noise(seed, first, 50, SIZE, RATE_HZ)
    assert (np.abs(noise) <= 1).all()
    assert np.abs(np.diff(noise, axis=0)).max() <= 2 * np.pi / (MIN_PERIOD_S * RATE_HZ)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_a_control_step_has_one_noise_in_whichever_chunk_it_stands(seed, index):
    now, following = (exploration()(step(i, seed), recall(), NOTHING)[0] for i in (index, index + 1))
    np.testing.assert_allclose(now[STEPS:], following[: HORIZON - STEPS], atol=EPS)


def test_noise_is_about_as_often_above_zero_as_below_and_not_small():
    noise = np.concatenate([sine_noise(seed, 0, 200, SIZE, RATE_HZ) for seed in range(50)])
    assert abs(noise.mean()) < 0.03 and 0.3 < noise.std() < 0.4  # sqrt(1 / (2 SINES)) = 0.35


# Retry and branch


@pytest.mark.parametrize(("share", "changes"), [(0.4, False), (0.5, False), (0.6, True), (1.0, True)])
def test_retry_explores_where_recall_gives_more_than_half_to_failures(share, changes):
    mixed = recall(experience(0.5, 1 - share), experience(-0.5, share, Outcome.FAILURE))
    assert failure_probability(mixed) == share
    found = exploration("retry")(step(), mixed, NOTHING)
    assert (found is not None) == changes
    if changes:
        np.testing.assert_array_equal(found[0], exploration("noise")(step(), mixed, NOTHING)[0])


def test_an_aborted_rollout_is_no_failure():
    assert failure_probability(recall(experience(0.5, 1.0, Outcome.ABORTED))) == 0


def test_a_branch_leads_towards_another_recalled_step_and_names_it():
    explored, drawn = exploration("branch", scale=1.0)(step(), recall(), NOTHING)
    assert drawn == 1
    np.testing.assert_array_equal(explored, np.maximum(np.full((HORIZON, SIZE), -0.5, np.float32), -BOUND))


def test_a_branch_that_is_near_is_reached():
    near = recall(experience(0.5, 0.7), experience(0.125, 0.3))
    explored, _ = exploration("branch")(step(), near, np.full_like(NOTHING, 0.25))
    np.testing.assert_array_equal(explored, np.full_like(NOTHING, 0.125))


def test_branches_are_drawn_by_the_probabilities_of_recall():
    steps = (experience(0, 0.5), experience(1, 0.3), experience(2, 0.1), experience(3, 0.1), experience(4, 0.0))
    drawn = [exploration("branch")(step(i), recall(*steps), NOTHING)[1] for i in range(1000)]
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0, 0.6, 0.2, 0.2, 0], atol=0.05)


@pytest.mark.parametrize(
    "steps",
    [
        (experience(0.5, 1.0),),
        (experience(0.5, 1.0), experience(1, 0.0)),
        (experience(0.5, 0.5, horizon=3), experience(1, 0.5, horizon=3)),
    ],
    ids=["alone", "improbable", "another shape"],
)
def test_where_no_other_step_can_be_drawn_there_is_no_branch(steps):
    assert other_step(recall(*steps), step(), np.random.default_rng(0)) == -1
    assert exploration("branch")(step(), recall(*steps), NOTHING) is None


# Which decisions


def test_off_is_off():
    assert exploration(OFF)(step(), recall(), NOTHING) is None


@pytest.mark.parametrize("flag", ["correct", "record"])
@pytest.mark.parametrize("mode", MODES)
def test_an_episode_that_is_not_corrected_or_not_recorded_is_never_explored(mode, flag):
    assert exploration(mode)(step(**{flag: False}), FAILING, NOTHING) is None


@pytest.mark.parametrize("mode", MODES)
def test_without_a_recall_nothing_is_explored(mode):
    assert exploration(mode)(step(), Recall(reason="the memory did not answer"), NOTHING) is None


@pytest.mark.parametrize(("confidence", "changes"), [(0.49, True), (0.5, False), (0.9, False)])
def test_only_an_unsure_recall_is_explored(confidence, changes):
    found = exploration(max_confidence=0.5)(step(), recall(confidence=confidence), NOTHING)
    assert (found is not None) == changes


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_the_seed_decides_and_the_fraction_is_the_share_of_episodes(fraction):
    exploring = [exploration(episode_fraction=fraction).explores(seed) for seed in range(2000)]
    assert np.mean(exploring) == pytest.approx(fraction, abs=0.03)
    for seed in range(10):
        changes = [
            exploration(episode_fraction=fraction)(step(i, seed), recall(), NOTHING) is not None for i in range(5)
        ]
        assert changes == [exploring[seed]] * 5


def test_a_change_that_is_not_finite_is_none():
    broken = exploration("residual", sampler=lambda step, recall, rng: np.full_like(step.base, np.nan))
    assert broken(step(), recall(), NOTHING) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "wild"}, "exploration.mode is 'wild'; choose one of 'off', 'noise'"),
        ({"mode": False}, "exploration.mode is False; .* a bare off"),
        ({"scale": 1.5}, r"exploration.scale is 1.5; it must be in \[0, 1\]"),
        ({"episode_fraction": -0.1}, "exploration.episode_fraction is -0.1"),
        ({"max_confidence": np.nan}, "exploration.max_confidence is nan"),
        ({"bound": np.array([0.3, np.inf], np.float32)}, r"limits.residual is \[.*inf\]; .* make every entry finite"),
        ({"mode": "residual", "sampler": None}, "samples the learned actor; set method: learned"),
    ],
)
def test_what_does_not_fit_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        exploration(**settings)


# The learned actor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = EfnConfig(
        horizon=HORIZON, action_size=SIZE, latent=(2, 3), sketch=(2, 4), bound=(0.3, 0.6), proprio_mean=(0.0,) * 3,
        proprio_std=(1.0,) * 3, motion_std=(1.0,) * 3, width=16, heads=2, feedforward=16,
    )  # fmt: skip
    efn = Efn(config)
    torch.nn.init.normal_(efn.head.weight, std=0.5)
    directory = tmp_path_factory.mktemp("efn")
    efn.save_pretrained(directory)
    return directory


def test_samples_of_the_actor_lie_around_its_mean_within_its_bound(checkpoint):
    from efn_ros.correction.learned import LearnedResidual

    sample, rng = actor_sampler(checkpoint), np.random.default_rng(0)
    drawn = np.stack([sample(step(), recall(), rng) for _ in range(400)])
    assert drawn.dtype == np.float32 and (np.abs(drawn) <= BOUND).all() and drawn.std(axis=0).min() > 0
    mean, *_ = LearnedResidual(checkpoint)(step(), recall())
    np.testing.assert_allclose(np.median(drawn, axis=0), mean, atol=0.12)


def test_a_gain_scales_samples_as_it_scales_the_residual(checkpoint):
    full, half = (actor_sampler(checkpoint, gain=g)(step(), recall(), np.random.default_rng(1)) for g in (1.0, 0.5))
    np.testing.assert_allclose(half, full / 2, rtol=1e-6)


def test_sampling_is_the_same_for_the_same_step(checkpoint):
    changes = [
        exploration("residual", sampler=actor_sampler(checkpoint))(step(5, 9), recall(), NOTHING)[0] for _ in range(2)
    ]
    assert changes[0].tobytes() == changes[1].tobytes() and changes[0].any()


def test_replacing_a_context_changes_nothing_but_seed_and_step():
    other = step(2, 4)
    other = replace(other, context=replace(other.context, episode_id="e1", stamp_ns=77, task="push"))
    here, there = (exploration()(s, recall(), NOTHING)[0] for s in (step(2, 4), other))
    assert here.tobytes() == there.tobytes()


def test_an_actor_that_cannot_read_what_was_recalled_explores_nothing(checkpoint, tmp_path):
    efn = Efn(dataclasses.replace(Efn.from_pretrained(checkpoint).config, code_size=2))
    efn.save_pretrained(tmp_path)
    assert exploration("residual", sampler=actor_sampler(tmp_path))(step(), recall(), NOTHING) is None
    known = dataclasses.replace(experience(0.5, 1.0), code=np.zeros(2, np.float32))
    told = dataclasses.replace(recall(known), codes=efn.codes.identity)
    assert exploration("residual", sampler=actor_sampler(tmp_path))(step(), told, NOTHING) is not None
