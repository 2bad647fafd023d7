# SPDX-License-Identifier: MIT
"""Assembly of a rollout from parts that arrive separately, in any order, twice, or not at all."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_rollouts import make_step

from efn_ros.bank import RolloutRecorder
from efn_ros.bank.store.recorder import MAX_EARLY
from efn_ros.types import Outcome, PolicyStep

STEPS = [make_step("e0", step) for step in range(4)]


def parts(step):
    return [step.observation, step.policy_step, step.correction]


def begun(episode_id="e0"):
    recorder = RolloutRecorder()
    begin(recorder, episode_id)
    return recorder


def begin(recorder, episode_id="e0"):
    recorder.begin(episode_id, robot="arm", task="reach", instruction="reach the goal", seed=7, start_ns=5)


def record(items):
    recorder = begun()
    for item in items:
        recorder.add(item)
    return recorder, recorder.finish(Outcome.SUCCESS, length=16)


@dataclasses.dataclass(frozen=True)
class StepWithTokens(PolicyStep):
    """A policy step of an experiment, with more than a bank stores."""

    tokens: str = "large"


def test_a_part_of_a_subclass_is_recorded_without_what_the_subclass_adds():
    observation, step, correction = parts(STEPS[0])
    recorder, rollout = record([observation, StepWithTokens(**vars(step)), correction])
    assert recorder.incomplete == 0
    assert type(rollout.steps[0].policy_step) is PolicyStep
    assert vars(rollout.steps[0].policy_step) == vars(step)


@given(st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(order):
    items = [part for step in STEPS for part in parts(step)]
    order.shuffle(items)
    recorder, rollout = record(items)
    assert [step.policy_step.context.step for step in rollout.steps] == [0, 1, 2, 3]
    for recorded, step in zip(rollout.steps, STEPS, strict=True):
        assert all(a is b for a, b in zip(parts(recorded), parts(step), strict=True))
    assert recorder.incomplete == recorder.duplicates == recorder.foreign == 0


def test_the_rollout_describes_the_episode():
    _, rollout = record(parts(STEPS[0]))
    assert (rollout.episode_id, rollout.robot, rollout.task, rollout.instruction) == (
        "e0", "arm", "reach", "reach the goal"
    )  # fmt: skip
    assert (rollout.seed, rollout.start_ns) == (7, 5)
    assert (rollout.outcome, rollout.length) == (Outcome.SUCCESS, 16)


def test_the_policy_is_the_one_that_made_the_steps():
    step = dataclasses.replace(STEPS[0].policy_step, policy="policy-7")
    _, rollout = record([STEPS[0].observation, step, STEPS[0].correction])
    assert rollout.policy == "policy-7"


def test_complete_counts_the_decisions_that_have_all_their_parts():
    recorder, counts = begun(), []
    for item in parts(STEPS[0]) + parts(STEPS[1]):
        recorder.add(item)
        counts.append(recorder.complete)
    assert counts == [0, 0, 1, 1, 1, 2]


def test_the_first_decision_is_known_even_if_it_is_incomplete():
    recorder = begun()
    assert recorder.first is None
    for item in [*parts(STEPS[2]), STEPS[1].observation]:
        recorder.add(item)
    assert recorder.first == 1


def test_an_incomplete_step_is_dropped_and_counted():
    recorder, rollout = record(parts(STEPS[0]) + parts(STEPS[1])[:2] + parts(STEPS[2]))
    assert [step.policy_step.context.step for step in rollout.steps] == [0, 2]
    assert recorder.incomplete == 1


def test_without_a_complete_decision_the_rollout_is_none():
    recorder, rollout = record(parts(STEPS[0])[:2])
    assert rollout is None and recorder.incomplete == 1


def test_the_first_of_two_equal_parts_counts():
    late = dataclasses.replace(STEPS[0].correction, confidence=0.9)
    recorder, rollout = record([*parts(STEPS[0]), late])
    assert rollout.steps[0].correction is STEPS[0].correction and recorder.duplicates == 1


def test_parts_with_another_stamp_are_another_step():
    correction = STEPS[0].correction
    stale = dataclasses.replace(correction, context=dataclasses.replace(correction.context, stamp_ns=1))
    recorder, rollout = record([STEPS[0].observation, STEPS[0].policy_step, stale])
    assert rollout is None and recorder.incomplete == 2


def test_of_two_complete_decisions_with_the_same_index_the_earlier_counts():
    later = [dataclasses.replace(p, context=dataclasses.replace(p.context, stamp_ns=10**9)) for p in parts(STEPS[0])]
    recorder, rollout = record(later + parts(STEPS[0]))
    assert len(rollout.steps) == 1 and rollout.steps[0].observation is STEPS[0].observation
    assert recorder.duplicates == 1


def test_parts_of_other_episodes_are_ignored_and_counted():
    recorder, rollout = record(parts(make_step("e9", 0)) + parts(STEPS[0]))
    assert len(rollout.steps) == 1 and recorder.foreign == 3


def test_parts_that_are_not_to_be_recorded_are_ignored_and_counted():
    recorder, rollout = record(parts(make_step("e0", 0, record=False)))
    assert rollout is None and recorder.unrecorded == 3


def test_parts_may_arrive_before_their_episode_begins():
    recorder = RolloutRecorder()
    for item in parts(STEPS[0]) + parts(make_step("e9", 0)):
        recorder.add(item)
    begin(recorder)
    assert recorder.foreign == 3
    assert len(recorder.finish(Outcome.FAILURE, length=4).steps) == 1


def test_the_number_of_early_parts_is_bounded():
    recorder = RolloutRecorder()
    for step in range(1000):
        recorder.add(make_step("e9", 0).correction if step else STEPS[0].correction)
    begin(recorder, "e9")
    assert recorder.foreign == 0 and recorder.duplicates < MAX_EARLY


def test_a_new_episode_starts_clean():
    recorder = begun()
    recorder.add(STEPS[0].observation)
    begin(recorder, "e1")
    for item in parts(make_step("e1", 0)):
        recorder.add(item)
    rollout = recorder.finish(Outcome.ABORTED, length=4)
    assert rollout.episode_id == "e1" and len(rollout.steps) == 1 and recorder.incomplete == 0


def test_finishing_before_beginning_raises():
    with pytest.raises(RuntimeError, match="call begin"):
        RolloutRecorder().finish(Outcome.SUCCESS, length=1)
