# SPDX-License-Identifier: MIT
"""The correction without training: its formula, and in words why it is nothing."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sample_recalls import stack_experiences

from efn_ros.correction import RecalledAction
from efn_ros.types import Experience, Outcome, PolicyStep, Quantised, Recall, StepContext

NOTHING = np.zeros(0, np.float32)
NO_TOKENS = Quantised(np.zeros((1, 4), np.int8), np.ones(1, np.float32))
BASE = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)


def step(base=BASE) -> PolicyStep:
    context = StepContext("e0", 0, 0, "reach", "reach the goal")
    return PolicyStep(context, base, NO_TOKENS, NO_TOKENS, NOTHING[None], NOTHING, NOTHING)


def experience(executed, outcome=Outcome.SUCCESS) -> Experience:
    return Experience(
        "r0",
        0,
        "reach the goal",
        outcome,
        8,
        executed,
        0 * executed,
        NOTHING,
        NOTHING,
        executed,
        NOTHING,
        NOTHING,
        1.0,
        1.0,
        1.0,
    )


def recall(*executed, selected=0, confidence=0.8, outcome=Outcome.SUCCESS) -> Recall:
    return Recall(
        stack_experiences(*(experience(e, outcome) for e in executed)), selected=selected, confidence=confidence
    )


chunks = hnp.arrays(np.float32, (2, 2), elements=st.floats(-1, 1, width=32))


@settings(max_examples=60, deadline=None)
@given(chunks, chunks, st.floats(0, 1), st.floats(0.5, 1))
def test_the_residual_leads_towards_the_action_that_was_executed(base, executed, gain, confidence):
    residual, reason, _ = RecalledAction(gain, 0.5)(step(base), recall(executed, confidence=confidence))
    assert reason == "" and residual.dtype == np.float32
    for h in range(2):
        for a in range(2):
            literal = gain * confidence * (float(executed[h, a]) - float(base[h, a]))
            assert residual[h, a] == pytest.approx(literal, rel=1e-6, abs=1e-7)


def test_with_full_gain_and_confidence_it_is_the_recalled_action_itself():
    executed = np.array([[1, -1], [0.5, 0]], np.float32)
    residual, *_ = RecalledAction(1.0)(step(), recall(executed, confidence=1.0))
    np.testing.assert_allclose(BASE + residual, executed, atol=1e-7)


def test_the_experience_that_was_drawn_counts_not_the_best():
    best, drawn = np.full_like(BASE, 9), BASE + 1
    residual, *_ = RecalledAction(1.0)(step(), recall(best, drawn, selected=1, confidence=1.0))
    np.testing.assert_allclose(residual, 1.0, atol=1e-6)


@pytest.mark.parametrize(
    "given_recall, reason",
    [
        (Recall(), "nothing was recalled"),
        (Recall(reason="the bank is empty"), "the bank is empty"),
        (recall(BASE + 1, confidence=0.49), "confidence 0.49 is below 0.50"),
        (recall(BASE + 1, outcome=Outcome.FAILURE), "the experience drawn did not end in success"),
        (recall(BASE + 1, outcome=Outcome.ABORTED), "the experience drawn did not end in success"),
        (recall(BASE + 1, outcome=Outcome.UNKNOWN), "the experience drawn did not end in success"),
        (recall(np.zeros((3, 2), np.float32)), r"the experience holds a chunk of shape (3, 2)"),
        (recall(np.zeros((2, 1), np.float32)), r"the experience holds a chunk of shape (2, 1)"),
    ],
)
def test_without_an_experience_worth_following_it_is_zero_with_the_reason(given_recall, reason):
    residual, said, _ = RecalledAction(0.5, 0.5)(step(), given_recall)
    assert said == reason
    assert residual.shape == BASE.shape and not residual.any()


def test_confidence_at_the_threshold_is_enough():
    residual, reason, _ = RecalledAction(0.5, 0.5)(step(), recall(BASE + 1, confidence=0.5))
    assert reason == "" and residual.any()


def test_a_failure_that_was_not_drawn_does_not_matter():
    made = recall(BASE + 1, BASE + 1)
    failed = dataclasses.replace(made.steps[1], outcome=Outcome.FAILURE)
    residual, reason, _ = RecalledAction()(
        step(), dataclasses.replace(made, steps=stack_experiences(made.steps[0], failed))
    )
    assert reason == "" and residual.any()
