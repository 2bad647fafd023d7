# SPDX-License-Identifier: MIT
"""Latency by stage, from messages whose stamps are known."""

import math

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction

from efn_ros.report.latency import STAGES, summary
from efn_ros.ros.fields import to_time
from efn_ros.ros.latency import stages

START_NS = 1_700_000_000 * 10**9
MS = 10**6


def action(observed, inferred, out, recall_s, image=0) -> CorrectedAction:
    """Return an action with times in milliseconds after the start of the episode."""
    observed, inferred, created, stamp = (to_time(START_NS + t * MS) for t in (observed, inferred, out, image))
    message = CorrectedAction(observed=observed, inferred=inferred, created=created, recall_s=recall_s)
    message.context.header.stamp = stamp
    return message


def test_each_stage_is_the_time_between_two_stamps():
    found = stages([action(observed=5, inferred=25, out=40, recall_s=0.01)])
    expected = {"observe": 0.005, "infer": 0.020, "recall": 0.010, "correct": 0.005, "total": 0.040}
    assert list(found) == list(STAGES) == list(expected)
    for stage, seconds in expected.items():
        assert found[stage] == pytest.approx([seconds], abs=1e-9), stage


def test_a_missing_recall_has_no_duration():
    found = stages([action(5, 25, 40, recall_s=math.nan)])
    assert found["recall"] == [0.0] and found["correct"] == pytest.approx([0.015])


def test_stages_add_up_to_the_total():
    rng = np.random.default_rng(0)
    actions = []
    for _ in range(50):
        image, observed, inferred, out = np.cumsum(rng.integers(1, 50, 4)).tolist()
        actions.append(action(observed, inferred, out, rng.uniform(0, 1e-3), image=image))
    found = stages(actions)
    parts = sum(found[stage] for stage in STAGES if stage != "total")
    np.testing.assert_allclose(parts, found["total"], atol=1e-9)
    assert len(found["total"]) == 50


def test_no_actions_have_no_summary():
    found = stages([])
    assert list(found) == list(STAGES) and all(values.size == 0 for values in found.values())
    assert summary(found) == {}


def test_a_summary_has_median_tail_and_count():
    values = np.arange(101) / 100
    found = summary({"infer": values, "recall": values[:0]})
    assert set(found) == {"infer"}
    assert found["infer"] == pytest.approx({"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99, "max_s": 1.0, "n": 101})
