# SPDX-License-Identifier: MIT
"""The success probability: calibrated, from past episodes only, and absent if there are too few."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_recalls import prequential_predictions
from sample_rollouts import PROJECTION, make_rollout
from scipy.optimize import minimize

from efn_ros.bank import BankCorruptionError, BankReader, BankWriter
from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.retrieval.success_model import (
    MIN_EPISODES,
    RIDGE,
    OutcomeHistory,
    SuccessModel,
    fit_logistic,
)
from efn_ros.types import Mode, Outcome


def followed(success=True, source="a", confidence=0.5, instruction="push", decisions=3):
    return FollowedEpisode(instruction, [source] * decisions, np.full(decisions, confidence), success)


followings = st.lists(
    st.builds(
        followed,
        st.booleans(),
        st.sampled_from("abc"),
        st.floats(0, 1),
        st.sampled_from(["push", "pull"]),
        st.integers(1, 4),
    ),
    min_size=MIN_EPISODES,
    max_size=40,
)


def test_too_few_episodes_give_no_prediction():
    episodes = [followed(i % 2 == 0) for i in range(MIN_EPISODES)]
    assert SuccessModel(episodes[:-1]).predict(followed()) is None
    assert SuccessModel(episodes).predict(followed()).shape == (3,)
    assert len(prequential_predictions(episodes)[0]) == 0


@given(episodes=followings, then=st.builds(followed, source=st.sampled_from("abx"), confidence=st.floats(0, 1)))
def test_a_probability_is_between_zero_and_one(episodes, then):
    predicted = SuccessModel(episodes).predict(then)
    assert ((predicted > 0) & (predicted < 1)).all()


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_the_weights_maximise_the_posterior(seed, features):
    rng = np.random.default_rng(seed)
    inputs, offset = rng.normal(size=(60, features)), rng.normal(size=60)
    ended = rng.random(60) < 0.5 + 0.4 * np.tanh(inputs[:, 0])

    def penalised(weights):
        logit = offset + weights[0] + inputs @ weights[1:]
        return np.logaddexp(0, np.where(ended, -logit, logit)).sum() + RIDGE / 2 * weights @ weights

    expected = minimize(penalised, np.zeros(features + 1), tol=1e-10).x
    assert fit_logistic(inputs, ended, offset) == pytest.approx(expected, abs=1e-4)


def test_without_informative_inputs_it_is_the_overall_success_rate():
    predicted = SuccessModel([followed(i % 4 > 0) for i in range(400)]).predict(followed())
    assert predicted == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    "other", [followed(source="b"), followed(confidence=0.9), followed(instruction="pull")], ids=lambda f: str(f)[:40]
)
def test_groups_that_succeeded_before_are_more_likely_to_succeed(other):
    failures = [followed(i % 8 == 0) for i in range(40)]
    successes = [dataclasses.replace(other, success=i % 8 > 0) for i in range(40)]
    model = SuccessModel([f for pair in zip(failures, successes, strict=True) for f in pair])
    assert model.predict(other).min() > 0.75 > 0.25 > model.predict(followed()).max()


def test_an_episode_counts_once_whatever_its_length():
    rng = np.random.default_rng(0)
    samples = [(rng.random() < 0.6, "abc"[rng.integers(3)], rng.random()) for _ in range(50)]
    short, long = (SuccessModel([followed(*one, decisions=d) for one in samples]) for d in (1, 30))
    assert short.predict(followed(decisions=1))[0] == pytest.approx(long.predict(followed(decisions=1))[0], rel=1e-6)


@given(episodes=followings, at=st.integers(0, 39))
def test_an_outcome_does_not_influence_its_own_prediction(episodes, at):
    at %= len(episodes)
    otherwise = list(episodes)
    otherwise[at] = dataclasses.replace(episodes[at], success=not episodes[at].success)
    until = max(0, at + 1 - MIN_EPISODES)
    assert np.array_equal(prequential_predictions(episodes)[0][:until], prequential_predictions(otherwise)[0][:until])


def test_predictions_are_calibrated():
    """Episodes whose success depends on all inputs of the model, and on chance."""
    rng = np.random.default_rng(1)
    rollouts = {name: rng.normal() for name in "abcdefgh"}
    tasks = {task: rng.normal() for task in ("push", "pull", "lift")}
    episodes = []
    for _ in range(1500):
        source, task, confidence = rng.choice(list(rollouts)), rng.choice(list(tasks)), rng.uniform(0.05, 0.95)
        logit = 1 + rollouts[source] + tasks[task] + np.log(confidence / (1 - confidence))
        episodes.append(followed(rng.random() < 1 / (1 + np.exp(-logit)), source, confidence, task))
    predicted, ended = prequential_predictions(episodes)
    for tenth in np.array_split(np.argsort(predicted), 10):
        assert predicted[tenth].mean() == pytest.approx(ended[tenth].mean(), abs=4 * 0.5 / np.sqrt(len(tenth)))
    assert np.ptp([predicted[tenth].mean() for tenth in np.array_split(np.argsort(predicted), 10)]) > 0.6


# From a bank


def rollout(name, *changes, outcome=Outcome.SUCCESS, policy="policy-1"):
    """One decision for each of `changes`, fields of its correction."""
    made = make_rollout(name, len(changes), outcome=outcome)
    behind = {"rollout_id": "source", "rollout_step": 0, "mode": Mode.CORRECTED, "confidence": 0.25}
    steps = tuple(
        dataclasses.replace(step, correction=dataclasses.replace(step.correction, **behind | change))
        for step, change in zip(made.steps, changes, strict=True)
    )
    return dataclasses.replace(made, steps=steps, policy=policy)


def fill(bank, *rollouts):
    with BankWriter(bank, projection=PROJECTION) as writer:
        for one in rollouts:
            writer.append(one)


def learned(bank, newest=100, **options):
    outcomes = OutcomeHistory(newest)
    outcomes.update(BankReader(bank, **options).snapshot().rollouts)
    return outcomes.model.episodes


def test_corrected_decisions_without_exploration_are_followed(tmp_path):
    fill(
        tmp_path,
        rollout(
            "a", {}, {"mode": Mode.BASE}, {"exploration": "noise"}, {"rollout_id": ""},
            {"rollout_id": "other", "confidence": 0.75},
        ),
        rollout("b", {"mode": Mode.SHADOW}, {"mode": Mode.HOLD}),
    )  # fmt: skip
    first, second = BankReader(tmp_path).snapshot().rollouts
    episode = first.followed()
    assert (episode.instruction, episode.sources, episode.success) == ("reach the goal", ["source", "other"], True)
    assert episode.confidence.tolist() == [0.25, 0.75]
    assert second.followed() is None
    assert learned(tmp_path) == 1


def test_only_outcomes_of_the_newest_policy_are_used(tmp_path):
    fill(
        tmp_path,
        rollout("before", {}, policy="policy-0"),
        rollout("success", {}),
        rollout("failure", {}, outcome=Outcome.FAILURE),
        rollout("stopped", {}, outcome=Outcome.ABORTED),
        rollout("unknown", {}, outcome=Outcome.UNKNOWN),
        rollout("newest", {}),
    )
    assert learned(tmp_path) == 3
    assert learned(tmp_path, newest=1) == 1
    assert learned(tmp_path, newest=0) == 0


def test_a_removed_rollout_is_no_longer_used(tmp_path):
    fill(tmp_path, *(rollout(name, {}) for name in "abc"))
    reader, outcomes = BankReader(tmp_path), OutcomeHistory(100)
    outcomes.update(reader.snapshot().rollouts)
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.remove("b", reason="to see")
    outcomes.update(reader.snapshot().rollouts)
    assert outcomes.model.episodes == 2


def test_new_rollouts_are_added_to_the_model(tmp_path):
    reader, outcomes = BankReader(tmp_path), OutcomeHistory(100)
    for i in range(2 * MIN_EPISODES):
        fill(tmp_path, rollout(f"r{i}", {}, outcome=Outcome.SUCCESS if i % 3 else Outcome.FAILURE))
        outcomes.update(reader.snapshot().rollouts)
    new = OutcomeHistory(100)
    new.update(reader.snapshot().rollouts)
    assert outcomes.model.episodes == new.model.episodes == 2 * MIN_EPISODES
    assert np.array_equal(outcomes.model.predict(followed()), new.model.predict(followed()))
    assert outcomes.policy == "policy-1"


def test_a_damaged_payload_is_not_used(tmp_path):
    fill(tmp_path, rollout("a", {}), rollout("b", {}))
    path = BankReader(tmp_path).snapshot().rollouts[0].path
    content = bytearray(path.read_bytes())
    at = content.index(b"reach the goal")  # its metadata
    content[at : at + 1] = b"b"
    path.write_bytes(content)
    assert learned(tmp_path, skip_corrupt=True) == 1
    with pytest.raises(BankCorruptionError, match="rollout 'a'.*metadata are not what was written"):
        learned(tmp_path)
