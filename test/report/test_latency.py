"""Latency by stage, from messages whose stamps are known."""

import math

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction, Observation, PolicyStep

from efn_ros.report.latency import STAGES, stages, summary
from efn_ros.ros.conversions import to_time

START_NS = 1_700_000_000 * 10**9
MS = 10**6


def messages(step, observed, inferred, out, recall_s, episode="e0", image=0):
    """The three messages of one decision, whose times are milliseconds after the start of the episode."""
    made = []
    for kind, created in ((Observation, observed), (PolicyStep, inferred), (CorrectedAction, out)):
        message = kind(created=to_time(START_NS + created * MS))
        message.context.episode_id, message.context.step = episode, step
        message.context.header.stamp = to_time(START_NS + image * MS)
        made.append(message)
    made[2].recall_s = recall_s
    return made


def times(*decisions):
    return stages(*map(list, zip(*decisions, strict=True)))


def test_each_stage_is_the_time_between_two_stamps():
    found = times(messages(0, observed=5, inferred=25, out=40, recall_s=0.01))
    expected = {"observe": 0.005, "infer": 0.020, "recall": 0.010, "correct": 0.005, "total": 0.040}
    assert list(found) == list(STAGES) == list(expected)
    for stage, seconds in expected.items():
        assert found[stage] == pytest.approx([seconds], abs=1e-9), stage


def test_a_recall_that_gave_no_answer_took_no_time_of_its_own():
    found = times(messages(0, 5, 25, 40, recall_s=math.nan))
    assert found["recall"] == [0.0] and found["correct"] == pytest.approx([0.015])


def test_stages_add_up_to_the_total():
    rng = np.random.default_rng(0)
    decisions = []
    for step in range(50):
        image, observed, inferred, out = np.cumsum(rng.integers(1, 50, 4)).tolist()
        decisions.append(messages(step, observed, inferred, out, rng.uniform(0, 1e-3), image=image))
    found = times(*decisions)
    parts = sum(found[stage] for stage in STAGES if stage != "total")
    np.testing.assert_allclose(parts, found["total"], atol=1e-9)
    assert len(found["total"]) == 50


def test_messages_belong_together_by_episode_and_step_and_not_by_order():
    first, second = messages(0, 1, 2, 4, 0.0), messages(0, 10, 20, 40, 0.0, episode="e1")
    found = stages([second[0], first[0]], [first[1], second[1]], [second[2], first[2]])
    assert found["total"] == pytest.approx([0.040, 0.004])
    assert found["infer"] == pytest.approx([0.010, 0.001])


def test_an_action_without_its_observation_or_step_is_left_out():
    whole, blind, mute = (messages(i, 1, 2, 3, 0.0) for i in range(3))
    found = stages([whole[0], mute[0]], [whole[1], blind[1]], [whole[2], blind[2], mute[2]])
    assert all(len(values) == 1 for values in found.values())


def test_nothing_has_no_stages_to_sum_up():
    found = stages([], [], [])
    assert list(found) == list(STAGES) and all(values.size == 0 for values in found.values())
    assert summary(found) == {}


def test_a_summary_tells_the_median_the_tail_and_how_many():
    values = np.arange(101) / 100
    found = summary({"infer": values, "recall": values[:0]})
    assert set(found) == {"infer"}
    assert found["infer"] == pytest.approx({"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99, "max_s": 1.0, "n": 101})
