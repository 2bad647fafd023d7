# SPDX-License-Identifier: MIT
"""The corrector: the order of what can go wrong, the latched stop, and a history that is counted in steps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sample_recalls import stack_experiences

from efn_ros.correction import Corrector, RecalledAction
from efn_ros.correction.exploration import MODES, OFF, Exploration
from efn_ros.correction.limits import ActionLimits
from efn_ros.types import Experience, Mode, Outcome, PolicyStep, Proposal, Quantised, Recall, StepContext

SIZE = 2  # the first dimension is a velocity, the second a position
EPS = float(np.finfo(np.float32).eps)
NO_TOKENS = Quantised(np.zeros((1, 4), np.int8), np.ones(1, np.float32))


def limits(**bounds) -> ActionLimits:
    values = {"low": [-1.0] * SIZE, "high": [1.0] * SIZE, "residual": [0.5] * SIZE, "holds_last": [False, True]}
    return ActionLimits.create(**{"rate_hz": 10.0, **values, **bounds})


def step(base, index=0, episode="e0", correct=True) -> PolicyStep:
    context = StepContext(episode, index, 100 * index, "reach", "reach the goal", correct=correct)
    base, nothing = np.asarray(base, np.float32), np.zeros(0, np.float32)
    return PolicyStep(context, base, NO_TOKENS, NO_TOKENS, nothing[None], nothing, nothing)


def recalled(executed, confidence=1.0) -> Recall:
    executed, nothing = np.asarray(executed, np.float32), np.zeros(0, np.float32)
    experience = Experience(
        "r7",
        3,
        "reach the goal",
        Outcome.SUCCESS,
        8,
        executed,
        executed,
        nothing,
        nothing,
        executed,
        nothing,
        nothing,
        1.0,
        1.0,
        1.0,
    )
    return Recall(steps=stack_experiences(experience), selected=0, confidence=confidence)


def corrector(residual=None, control_steps=1, **bounds) -> Corrector:
    return Corrector(limits(**bounds), residual or RecalledAction(gain=0.5), control_steps=control_steps)


def both(residual, **settings) -> tuple[Corrector, Corrector]:
    """One in shadow, one that corrects."""
    made = (Corrector(limits(**BOUNDS), residual, control_steps=2, shadow=s, **settings) for s in (True, False))
    return tuple(made)


def probing(mode="noise", **settings) -> Exploration:
    values = {"scale": 0.5, "max_confidence": 1.0, "episode_fraction": 1.0, "control_steps": 1, "rate_hz": 10.0}
    return Exploration(mode, **{**values, "bound": np.full(SIZE, 0.5, np.float32), **settings})


def always(value):
    """A residual that asks for `value` in every entry."""
    return lambda step, recall, past: Proposal(np.full_like(step.base, value))


BASE = np.array([[0.1, 0.2], [0.3, 0.4], [-0.5, 0.6]], np.float32)
CAMERA_KINDS = recalled(BASE + np.float32(0.25))
REFUSED = np.where(BASE == BASE[1, 1], np.nan, BASE)


# What a method of correction is told


def test_a_method_receives_the_decisions_right_before():
    told = []

    def noting(step, recall, past):
        told.append([(p.proprio, p.executed) for p in past])
        return Proposal(np.full_like(step.base, 0.01), trust=0.3)

    guard = corrector(noting)
    went_out = [guard.correct(step(BASE, index), CAMERA_KINDS) for index in (0, 1, 2, 4, 5)]
    assert [len(past) for past in told] == [0, 1, 2, 0, 1]  # the fourth was never made
    np.testing.assert_array_equal(told[2][0][1], went_out[0].corrected)
    np.testing.assert_array_equal(told[2][1][1], went_out[1].corrected)
    guard.correct(step(BASE, 6, "e1"), CAMERA_KINDS)
    assert told[-1] == []
    assert {correction.trust for correction in went_out} == {0.3}


# Which mode, and why


def test_an_experience_corrects_the_base():
    correction = corrector().correct(step(BASE), CAMERA_KINDS)
    assert (correction.mode, correction.reason, correction.confidence) == (Mode.CORRECTED, "", 1.0)
    assert (correction.rollout_id, correction.rollout_step) == ("r7", 3)
    np.testing.assert_array_equal(correction.base, BASE)
    np.testing.assert_allclose(correction.corrected, BASE + 0.125, atol=1e-6)


def test_a_recall_without_an_experience_leaves_the_base_bit_for_bit_with_the_reason():
    correction = corrector().correct(step(BASE), Recall(reason="the bank is empty"))
    assert (correction.mode, correction.reason) == (Mode.BASE, "the bank is empty")
    assert (correction.rollout_id, correction.rollout_step, correction.confidence) == ("", -1, 0.0)
    assert correction.corrected.tobytes() == BASE.tobytes()
    assert not correction.residual.any()


def test_an_experience_that_is_not_followed_is_named_all_the_same():
    unsure = recalled(BASE + 1, confidence=0.2)
    correction = corrector().correct(step(BASE), unsure)
    assert (correction.mode, correction.rollout_id, correction.confidence) == (Mode.BASE, "r7", 0.2)
    assert correction.corrected.tobytes() == BASE.tobytes()


def test_an_episode_may_switch_correction_off():
    correction = corrector(always(0.3)).correct(step(BASE, correct=False), CAMERA_KINDS)
    assert (correction.mode, correction.reason) == (Mode.BASE, "correction is off")
    assert correction.corrected.tobytes() == BASE.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_residual_that_is_not_finite_is_left_out(value):
    correction = corrector(always(value)).correct(step(BASE), CAMERA_KINDS)
    assert (correction.mode, correction.reason) == (Mode.BASE, "the residual is not finite")
    assert correction.corrected.tobytes() == BASE.tobytes()


@pytest.mark.parametrize("correct", [True, False])
def test_a_base_that_is_refused_is_held_even_where_correction_is_off(correct):
    guard = corrector()
    guard.correct(step(BASE), CAMERA_KINDS)
    correction = guard.correct(step(REFUSED, 1, correct=correct), CAMERA_KINDS)
    assert (correction.mode, correction.reason) == (Mode.HOLD, "action[1][1] is nan")
    assert not correction.residual.any() and correction.corrected.shape == BASE.shape
    assert np.isfinite(correction.base).all()


@pytest.mark.parametrize("base", [BASE, REFUSED])
@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("recall", [CAMERA_KINDS, Recall(reason="the bank is empty")])
def test_a_stop_wins_over_everything(base, correct, recall):
    guard = corrector()
    guard.stop("the operator said so")
    correction = guard.correct(step(base, correct=correct), recall)
    assert (correction.mode, correction.reason) == (Mode.STOPPED, "the operator said so")
    assert not correction.corrected.any() and not correction.residual.any()


def test_a_stop_stays_until_it_is_reset_and_keeps_its_first_reason():
    guard = corrector()
    guard.correct(step(BASE), CAMERA_KINDS)
    guard.stop("first")
    guard.stop("second")
    for index, episode in ((1, "e0"), (2, "e0"), (0, "e1")):
        correction = guard.correct(step(BASE, index, episode), CAMERA_KINDS)
        assert (guard.stop_reason, correction.mode, correction.reason) == ("first", Mode.STOPPED, "first")
    guard.reset()
    assert guard.stop_reason == ""
    assert guard.correct(step(BASE, 1, "e1"), CAMERA_KINDS).mode == Mode.CORRECTED


# The history: what was commanded, by count of control steps


def held_after(chunk, control_steps, steps_later) -> list:
    """What is held when, after one chunk, the decision `steps_later` is refused."""
    guard = corrector(control_steps=control_steps)
    guard.correct(step(chunk), Recall(reason="base"))
    correction = guard.correct(step(np.full_like(chunk, np.nan), steps_later), Recall(reason="base"))
    assert correction.mode == Mode.HOLD
    assert (correction.corrected == correction.corrected[0]).all()
    return correction.corrected[0].tolist()


CHUNK = np.array([[0.5, 0.125], [0.5, 0.25], [0.5, 0.375], [0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    "control_steps, steps_later, row",
    [(1, 1, 0), (2, 1, 1), (4, 1, 3), (9, 1, 3), (1, 2, 1), (1, 3, 2), (2, 2, 3), (2, 7, 3)],
)
def test_holding_repeats_the_row_that_was_executed_last(control_steps, steps_later, row):
    """One decision executes `control_steps` rows; after a decision that never came, the chunk went on."""
    velocity, position = held_after(CHUNK, control_steps, steps_later)
    assert velocity == 0
    assert position == CHUNK[row, 1]


def test_holding_goes_on_from_what_is_held():
    guard = corrector(control_steps=2, velocity=[5.0, 5.0])
    guard.correct(step(CHUNK), Recall())
    for index in (1, 2, 3):
        held = guard.correct(step(np.full_like(CHUNK, np.inf), index), Recall())
        np.testing.assert_array_equal(held.corrected, np.tile(np.float32([0, 0.25]), (4, 1)))


def test_a_jump_is_measured_from_the_row_that_was_executed_last():
    far = np.tile(np.float32([0.5, 0.75]), (2, 1))
    for control_steps, refused in ((1, True), (4, False)):
        guard = corrector(control_steps=control_steps, reject=[0.3, 0.3])
        guard.correct(step(CHUNK), Recall())
        assert (guard.correct(step(far, 1), Recall()).mode == Mode.HOLD) == refused


def test_a_new_episode_has_nothing_behind_it():
    guard = corrector(control_steps=4, reject=[0.3, 0.3])
    guard.correct(step(CHUNK), Recall())
    far = np.tile(np.float32([-0.9, -0.9]), (2, 1))
    assert guard.correct(step(far, 0, "e1"), Recall()).mode == Mode.BASE
    guard.correct(step(CHUNK, 0, "e2"), Recall())
    held = guard.correct(step(np.full_like(far, np.nan), 0, "e3"), Recall())
    assert held.mode == Mode.HOLD and not held.corrected.any()


# What always holds


anything = st.floats(width=32)


@st.composite
def decisions(draw):
    """A few decisions in a row of an episode: base, residual (any bits in both), and whether one was skipped."""
    horizon = draw(st.integers(1, 4))
    sane, mad = (
        hnp.arrays(np.float32, (horizon, SIZE), elements=e) for e in (st.floats(-1.5, 1.5, width=32), anything)
    )
    chunk = st.one_of(sane, sane, mad)
    return draw(st.lists(st.tuples(chunk, chunk, st.integers(1, 2)), min_size=1, max_size=4))


BOUNDS = {"velocity": [2.0, 8.0], "acceleration": [20.0, 90.0], "jerk": [150.0, 2000.0], "reject": [1.5, 0.75]}


def assert_within_limits(path):
    """Every command of an episode, from rest at the first on; a difference may be off by the rounding of commands."""
    assert np.isfinite(path).all() and (np.abs(path) <= 1).all()
    path = np.concatenate([np.repeat(path[:1], 3, axis=0), path]).astype(np.float64)
    for order, name, steps in ((1, "velocity", 10), (2, "acceleration", 100), (3, "jerk", 1000), (1, "reject", 1)):
        allowed = np.divide(BOUNDS[name], steps) + 2**order * EPS / 2
        assert (np.abs(np.diff(path, order, axis=0)) <= allowed).all(), name


@settings(max_examples=100, deadline=None)
@given(decisions(), st.integers(1, 3), st.integers(0, 4))
def test_whatever_policy_and_memory_say_the_limits_hold_over_a_whole_episode(episode, control_steps, stop_at):
    """Every limit, in every mode, over every whole chunk that goes out; a stop comes in mid-motion."""
    wanted = iter([residual for _, residual, _ in episode])
    guard = Corrector(limits(**BOUNDS), lambda *_: Proposal(next(wanted)), control_steps=control_steps)
    executed, index = np.empty((0, SIZE), np.float32), 0
    for count, (base, _, skip) in enumerate(episode):
        if count == stop_at:
            guard.stop("enough")
        correction = guard.correct(step(base, index), CAMERA_KINDS)
        assert_within_limits(np.concatenate([executed, correction.corrected]))
        if correction.mode == Mode.CORRECTED:
            assert (np.abs(correction.residual) <= 0.5 + EPS).all()
        else:
            assert not correction.residual.any() and correction.reason
        if correction.mode in (Mode.CORRECTED, Mode.BASE) and not correction.limited:
            np.testing.assert_array_equal(correction.residual, correction.corrected - correction.base)
        executed = np.concatenate([executed, correction.corrected[: skip * control_steps]])
        index += skip


JUMP = np.float32([[0.0, 0.0], [0.6, 0.6], [0.6, 0.6], [0.6, 0.6]])


def test_a_base_beyond_a_limit_of_motion_is_limited_and_reported():
    guard = corrector(always(0.1), velocity=[2.0, np.inf])
    correction = guard.correct(step(JUMP, correct=False), Recall())
    assert (correction.mode, correction.limited) == (Mode.BASE, True)
    np.testing.assert_array_equal(correction.base, JUMP)
    np.testing.assert_array_equal(correction.corrected[:, 1], JUMP[:, 1])
    assert not correction.residual.any()
    assert 0.2 < correction.corrected[-1, 0] <= 0.6 and np.diff(correction.corrected[:, 0]).max() <= 0.2 + EPS
    still = guard.correct(step(np.repeat(correction.corrected[:1], 4, axis=0), 1, correct=False), Recall())
    assert not still.limited


def test_the_residual_is_what_memory_adds_also_where_the_base_is_limited():
    correction = corrector(always(0.1), velocity=[2.0, 2.0]).correct(step(JUMP), CAMERA_KINDS)
    assert (correction.mode, correction.limited) == (Mode.CORRECTED, True)
    np.testing.assert_allclose(correction.residual, 0.1, atol=EPS)
    np.testing.assert_allclose(correction.corrected[0], 0.1, atol=EPS)  # from where motion begins: base and residual
    assert np.diff(correction.corrected, axis=0).max() <= 0.2 + EPS


@pytest.mark.parametrize("why", [Mode.HOLD, Mode.STOPPED])
def test_a_hold_in_mid_motion_brakes_a_position_to_rest_and_a_velocity_to_zero(why):
    guard = corrector(control_steps=4, **{**BOUNDS, "acceleration": [20.0, 5.0]})
    ramp = np.float32([0.01, 0.02]) * np.arange(6, dtype=np.float32)[:, None] ** 2
    path = guard.correct(step(ramp), Recall()).corrected[:4]
    np.testing.assert_array_equal(path, ramp[:4])
    if why == Mode.STOPPED:
        guard.stop("enough")
    for index in range(1, 9):
        correction = guard.correct(step(REFUSED, index), Recall())
        assert (correction.mode, correction.limited) == (why, False)
        path = np.concatenate([path, correction.corrected[:4]])
    assert_within_limits(path)
    np.testing.assert_allclose(path[2:6, 1], [0.08, 0.18, 0.23, 0.23], atol=EPS)  # 0.1 a step, 5 a second squared
    assert (path[5:, 1] == path[5, 1]).all() and (path[-4:, 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (3, SIZE), elements=st.floats(-1, 1, width=32)))
def test_a_base_within_its_limits_is_executed_bit_for_bit_without_a_proposal(base):
    correction = corrector().correct(step(base), Recall())
    assert correction.corrected.tobytes() == base.tobytes()
    assert correction.reason == "nothing was recalled"


def test_the_same_decisions_give_the_same_bits():
    rng = np.random.default_rng(0)
    bases = rng.uniform(-1, 1, (20, 4, SIZE)).astype(np.float32)
    recalls = [recalled(rng.uniform(-1, 1, (4, SIZE)), confidence=rng.uniform()) for _ in bases]
    chunks = []
    for _ in range(2):
        guard = corrector(control_steps=2, velocity=[3.0, 3.0], jerk=[500.0, 500.0])
        chunks.append(
            [guard.correct(step(b, i), r).corrected for i, (b, r) in enumerate(zip(bases, recalls, strict=True))]
        )
    np.testing.assert_array_equal(*chunks)
    assert any(not np.array_equal(c, b) for c, b in zip(chunks[0], bases, strict=True))


MEASURED = np.array([0.7, -0.4], np.float32)  # proprioception: its second entry measures the action's second


def measuring(base, **more):
    return replace(step(base, **more), proprio=MEASURED)


def test_before_the_first_command_holding_means_the_measured_posture():
    own = Corrector(limits(), RecalledAction(), control_steps=1, measured=[-1, 1])
    correction = own.correct(measuring(REFUSED), Recall())
    assert correction.mode == Mode.HOLD
    np.testing.assert_array_equal(correction.corrected, np.tile(np.float32([0.0, -0.4]), (3, 1)))


def test_the_first_command_may_not_jump_from_the_measured_posture():
    own = Corrector(limits(reject=[np.inf, 0.5]), RecalledAction(), control_steps=1, measured=[-1, 1])
    correction = own.correct(measuring(BASE), Recall())
    assert correction.mode == Mode.HOLD
    assert "action[0][1] jumps by 0.6000, beyond 0.5000" in correction.reason


def test_a_new_episode_begins_at_the_measured_posture_again():
    own = Corrector(limits(), RecalledAction(), control_steps=3, measured=[-1, 1])
    own.correct(measuring(BASE), Recall())
    correction = own.correct(measuring(REFUSED, episode="e1"), Recall())
    np.testing.assert_array_equal(correction.corrected[0], np.float32([0.0, -0.4]))


def test_an_index_for_every_entry_is_asked_for_and_must_exist():
    with pytest.raises(ValueError, match="measured has 1 entries, but an action has 2"):
        Corrector(limits(), RecalledAction(), control_steps=1, measured=[0])
    own = Corrector(limits(), RecalledAction(), control_steps=1, measured=[-1, 5])
    with pytest.raises(ValueError, match="names entry 5 of 2"):
        own.correct(measuring(BASE), Recall())


# What memory proposed


def test_what_is_added_is_what_was_proposed():
    correction = corrector().correct(step(BASE), CAMERA_KINDS)
    np.testing.assert_array_equal(correction.proposed, correction.residual)
    assert (correction.clipped, correction.exploration) == (False, "")


@pytest.mark.parametrize("decision", [step(BASE, correct=False), step(REFUSED)], ids=["off", "refused"])
def test_without_a_proposal_there_is_none(decision):
    assert corrector().correct(decision, CAMERA_KINDS).proposed is None
    assert corrector().correct(step(BASE), Recall(reason="the bank is empty")).proposed is None
    assert corrector(always(np.nan)).correct(step(BASE), CAMERA_KINDS).proposed is None


def test_a_proposal_of_zero_is_one():
    proposed = corrector(always(0.0)).correct(step(BASE), CAMERA_KINDS).proposed
    assert proposed is not None and not proposed.any()


def test_a_proposal_that_the_limits_clip_is_reported_as_clipped():
    correction = corrector(always(9.0)).correct(step(BASE), CAMERA_KINDS)
    assert correction.clipped
    np.testing.assert_allclose(correction.proposed, np.minimum(0.5, 1 - BASE), atol=EPS)


# Shadow


@settings(max_examples=100, deadline=None)
@given(decisions())
def test_in_shadow_what_is_executed_is_bit_for_bit_that_of_correction_off(episode):
    """Whatever base and memory say, over a whole episode; and what is proposed first is what would have been added."""
    wanted = {index: residual for index, (_, residual, _) in enumerate(episode)}
    in_shadow, off = both(lambda step, *_: Proposal(wanted[step.context.step]), explore=probing())
    for index, (base, _, _) in enumerate(episode):
        shown = in_shadow.correct(step(base, index), CAMERA_KINDS)
        plain = off.correct(step(base, index, correct=False), CAMERA_KINDS)
        for part in ("base", "residual", "corrected"):
            assert getattr(shown, part).tobytes() == getattr(plain, part).tobytes(), part
        assert shown.limited == plain.limited and not shown.residual.any() and shown.exploration == ""
        assert shown.mode == (Mode.SHADOW if plain.mode == Mode.BASE else plain.mode)
        if shown.proposed is not None:
            assert (np.abs(shown.proposed) <= 0.5 + EPS).all()


def test_a_shadow_shows_what_would_have_been_added():
    in_shadow, correcting = both(always(0.25))
    shown, added = (own.correct(step(BASE), CAMERA_KINDS) for own in (in_shadow, correcting))
    assert (shown.mode, shown.reason, shown.rollout_id, shown.confidence) == (Mode.SHADOW, "", "r7", 1.0)
    assert (added.mode, added.clipped) == (Mode.CORRECTED, shown.clipped)
    np.testing.assert_array_equal(shown.proposed, added.residual)
    assert added.residual.any()


def test_shadow_without_a_proposal_has_the_reason():
    in_shadow, _ = both(RecalledAction())
    correction = in_shadow.correct(step(BASE), Recall(reason="the bank is empty"))
    assert (correction.mode, correction.reason, correction.proposed) == (Mode.SHADOW, "the bank is empty", None)


def test_an_episode_without_correction_has_no_shadow():
    in_shadow, _ = both(RecalledAction())
    correction = in_shadow.correct(step(BASE, correct=False), CAMERA_KINDS)
    assert (correction.mode, correction.reason) == (Mode.BASE, "correction is off")


# Exploration


def exploring(mode="noise", residual=None, *, explore=None, **bounds) -> Corrector:
    own = explore or probing(mode, sampler=lambda step, recall, rng: rng.normal(size=step.base.shape))
    return Corrector(limits(**bounds), residual or RecalledAction(gain=0.5), control_steps=1, explore=own)


FAILED = replace(CAMERA_KINDS.steps[0], rollout_id="r8", outcome=Outcome.FAILURE)
UNSURE = replace(CAMERA_KINDS, steps=stack_experiences(*CAMERA_KINDS.steps, FAILED))
UNSURE = replace(UNSURE, confidence=0.2)


@pytest.mark.parametrize("mode", MODES)
def test_exploration_is_named_and_distinguished_from_the_proposal(mode):
    correction = exploring(mode).correct(step(BASE), replace(UNSURE, confidence=0.9))
    assert (correction.mode, correction.reason, correction.exploration) == (Mode.CORRECTED, "", mode)
    assert correction.proposed is not None and not np.array_equal(correction.proposed, correction.residual)
    assert (np.abs(correction.residual - correction.proposed) <= 0.25 + EPS).all()
    assert correction.rollout_id == ("r8" if mode == "branch" else "r7")


def test_without_a_proposal_exploration_is_around_the_base():
    correction = exploring().correct(step(BASE), UNSURE)
    assert (correction.mode, correction.exploration, correction.proposed) == (Mode.CORRECTED, "noise", None)
    assert 0 < np.abs(correction.corrected - BASE).max() <= 0.25 + EPS


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(episode=decisions())
def test_exploration_stays_within_every_limit_over_a_whole_episode(mode, episode):
    wanted = {index: residual for index, (_, residual, _) in enumerate(episode)}
    guard = exploring(mode, lambda step, *_: Proposal(wanted[step.context.step]), **BOUNDS)
    path = np.empty((0, SIZE), np.float32)
    for index, (base, _, _) in enumerate(episode):
        first = recalled(np.nan_to_num(base), 0.1)
        failure = replace(first.steps[0], executed=-first.steps[0].executed, outcome=Outcome.FAILURE)
        memory = replace(first, steps=stack_experiences(*first.steps, failure))
        correction = guard.correct(step(base, index), memory)
        assert_within_limits(np.concatenate([path, correction.corrected]))
        assert (np.abs(correction.residual) <= 0.5 + EPS).all()
        path = np.concatenate([path, correction.corrected[:1]])


@settings(max_examples=40, deadline=None)
@given(decisions())
def test_off_is_off(episode):
    plain, off = corrector(always(0.2), **BOUNDS), exploring(residual=always(0.2), explore=probing(OFF), **BOUNDS)
    for index, (base, _, _) in enumerate(episode):
        left, right = (own.correct(step(base, index), UNSURE) for own in (plain, off))
        assert left.corrected.tobytes() == right.corrected.tobytes()
        assert (left.mode, left.reason, right.exploration) == (right.mode, right.reason, "")


def test_a_refused_base_and_a_stop_are_not_explored():
    guard = exploring()
    assert guard.correct(step(REFUSED), UNSURE).exploration == ""
    guard.stop("enough")
    correction = guard.correct(step(BASE, 1), UNSURE)
    assert (correction.mode, correction.exploration) == (Mode.STOPPED, "")
