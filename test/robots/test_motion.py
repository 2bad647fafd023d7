# SPDX-License-Identifier: MIT
"""Motion limits: whatever the target, every command is within every limit given those before it, and can stop.

V, A and J bound the first, second and third difference, in units a control step.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog

from efn_ros.robots.motion import LONGEST_STOP, MotionLimits, MotionState

pytestmark = pytest.mark.filterwarnings("error")
SIZE = 2
EPS = float(np.finfo(np.float32).eps)
NOTHING = np.empty((0, SIZE), np.float32)
INF = np.inf
LONG = 120  # control steps in which everything here comes to rest
thorough = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def make(low=-INF, high=INF, velocity=INF, acceleration=INF, jerk=INF, size=SIZE) -> MotionLimits:
    bounds = (low, high, velocity, acceleration, jerk)
    return MotionLimits.create(*(np.broadcast_to(np.asarray(bound, np.float64), size) for bound in bounds))


def rows(count, elements, size=SIZE):
    return hnp.arrays(np.float32, (count, size), elements=elements)


def differences(chunk, order):
    """In double precision, of motion that begins at rest at the first row."""
    return np.diff(np.concatenate([np.repeat(chunk[:1], 3, axis=0), chunk]).astype(np.float64), order, axis=0)


def assert_within(motion, chunk):
    """By the definition of the limits; a difference may be off by the rounding of the commands that make it."""
    assert chunk.dtype == np.float32
    assert (motion.low <= chunk).all() and (chunk <= motion.high).all()
    rounding = EPS / 2 * np.abs(chunk).max(axis=0, initial=0) * (1 + EPS)
    for order, bound in enumerate((motion.velocity, motion.acceleration, motion.jerk), start=1):
        assert (np.abs(differences(chunk, order)) <= bound + 2**order * rounding).all(), f"difference of order {order}"


def execute(motion, history, decisions):
    """Return the executed commands: after the history, some rows of the chunk of each target."""
    for target, count in decisions:
        history = np.concatenate([history, motion.within(target, history)[:count]])
    return history


def brake(motion, history):
    return np.concatenate([history, motion.braking(history, LONG).astype(np.float32)])


@st.composite
def motions(draw, scale=1.0):
    """Limits of which some are absent, and now and then one is zero. A stop takes a few control steps to some dozen."""
    share = st.tuples(*[st.one_of(st.floats(0.1, 1), st.floats(0.1, 1), st.sampled_from([0.0, INF]))] * SIZE)
    velocity = 0.3 * scale * np.array(draw(share))
    acceleration = np.where((0 < velocity) & (velocity < INF), velocity, 0.3 * scale) * draw(share)
    jerk = np.where((0 < acceleration) & (acceleration < INF), acceleration, 0.3 * scale) * draw(share)
    low = draw(rows(1, st.floats(-1, 0.5, width=32)))[0] * scale
    high = low + draw(rows(1, st.floats(2.0**-6, 2, width=32)))[0] * scale
    walls = draw(hnp.arrays(bool, (2, SIZE)))
    low, high = np.where(walls[0], low, -INF), np.where(walls[1], high, INF)
    return make(low, high, velocity, acceleration, jerk)


@st.composite
def episodes(draw):
    """Limits, where motion begins, and decisions: targets with the number of rows of each that are executed.

    A target is anything, keeps still, goes on steadily, or jumps between a few places and stays there for some rows.
    """
    scale = draw(st.sampled_from([2.0**-10, 1.0, 1000.0]))
    motion, horizon = draw(motions(scale)), draw(st.integers(1, 8))
    near = st.floats(-2, 2, width=32)
    still = rows(1, near).map(lambda row: np.repeat(row, horizon, axis=0))
    steady = st.tuples(rows(1, near), rows(1, st.floats(-0.25, 0.25, width=32))).map(
        lambda line: line[0] + line[1] * np.arange(horizon, dtype=np.float32)[:, None]
    )
    places = rows(horizon, st.sampled_from([-0.5, 0.0, 0.25, 1.0]))
    target = st.one_of(rows(horizon, near), still, steady, places).map(lambda chunk: chunk * np.float32(scale))
    decisions = draw(st.lists(st.tuples(target, st.integers(1, horizon)), min_size=1, max_size=6))
    begin = draw(rows(draw(st.integers(0, 1)), near)) * np.float32(scale)
    return motion, np.clip(begin, motion.low, motion.high).astype(np.float32), decisions


# Invariants


@thorough
@given(episodes())
def test_every_command_obeys_every_limit_whatever_the_target(episode):
    motion, begin, decisions = episode
    assert_within(motion, execute(motion, begin, decisions))


@thorough
@given(episodes())
def test_after_every_command_a_stop_within_the_limits_is_possible(episode):
    motion, begin, decisions = episode
    executed = execute(motion, begin, decisions)
    for count in range(1, len(executed) + 1):
        stopped = brake(motion, executed[:count])
        assert_within(motion, stopped)
        assert (stopped[-4:] == stopped[-1]).all()


@thorough
@given(episodes())
def test_a_chunk_within_the_limits_is_unchanged(episode):
    motion, begin, decisions = episode
    executed = execute(motion, begin, decisions[:-1])
    chunk = motion.within(decisions[-1][0], executed)
    np.testing.assert_array_equal(motion.within(chunk, executed), chunk)


@thorough
@given(episodes())
def test_dimensions_are_independent(episode):
    motion, begin, decisions = episode
    together = execute(motion, begin, decisions)
    for i in range(SIZE):
        bounds = (motion.low, motion.high, motion.velocity, motion.acceleration, motion.jerk)
        alone = MotionLimits.create(*(bound[i : i + 1] for bound in bounds))
        column = execute(alone, begin[:, i : i + 1], [(target[:, i : i + 1], count) for target, count in decisions])
        np.testing.assert_array_equal(column, together[:, i : i + 1])


@thorough
@given(st.data(), motions(), st.integers(1, 8))
def test_after_a_history_beyond_every_limit_low_and_high_still_hold(data, motion, horizon):
    history, target = data.draw(rows(data.draw(st.integers(0, 5)), finite)), data.draw(rows(horizon, finite))
    chunk = motion.within(target, history)
    assert chunk.shape == target.shape and chunk.dtype == np.float32
    assert (motion.low <= chunk).all() and (chunk <= motion.high).all() and np.isfinite(chunk).all()
    if len(history):
        braking = motion.braking(history, horizon)
        assert (motion.low <= braking).all() and (braking <= motion.high).all()


@thorough
@given(rows(5, finite), rows(3, finite))
def test_without_limits_of_motion_it_clips(target, history):
    np.testing.assert_array_equal(make().within(target, history), target)
    np.testing.assert_array_equal(make(-1.0, 2.0).within(target, history), np.clip(target, -1, 2))


@thorough
@given(st.sampled_from(["velocity", "acceleration", "jerk"]), rows(1, st.floats(-1, 1, width=32)), st.data())
def test_a_limit_of_zero_means_no_motion(name, begin, data):
    target = begin + data.draw(rows(4, st.integers(-8, 8).map(lambda i: i / 8)))
    motion = make(**{name: 0.0})
    np.testing.assert_array_equal(motion.within(target, begin), np.repeat(begin, 4, axis=0))


# Start of motion


def test_without_a_history_motion_begins_at_the_first_row_of_the_target():
    target = np.float32([[0.5, -3], [0.75, -3], [9, 9]])
    motion = make(-1.0, 1.0, velocity=0.25, acceleration=0.125)
    chunk = motion.within(target, NOTHING)
    np.testing.assert_array_equal(chunk[0], [0.5, -1])
    np.testing.assert_array_equal(chunk[1:], motion.within(target[1:], chunk[:1]))
    np.testing.assert_array_equal(motion.within(target[:1], NOTHING), chunk[:1])


def test_a_history_begins_at_rest_and_no_more_than_three_commands_of_it_matter():
    motion = make(velocity=1.0, acceleration=0.5, jerk=0.25, size=1)
    target = np.full((4, 1), 3, np.float32)
    before = np.float32([[9], [0], [0.25], [0.75]])
    assert (motion.within(target, before) == motion.within(target, before[1:])).all()
    assert (motion.within(target, before[1:2]) == motion.within(target, before[[1, 1, 1]])).all()
    assert (motion.within(target, before[1:]) != motion.within(target, before[3:])).any()


# Braking


def shortest_stop(past, horizon, velocity, acceleration, jerk):
    """The motion (horizon,) within the limits that comes to rest and goes the least far, by a linear programme.

    Motion has come to 0 by the commands `past` (3,). Variables are the `horizon` commands x that follow and z, which is
    minimised: x <= z, 0 <= z, and the last three x are equal.
    """
    rules, bounds = [np.eye(horizon, horizon + 1) - np.eye(1, horizon + 1, horizon)], [np.zeros(horizon)]
    for order, bound in enumerate((velocity, acceleration, jerk), start=1):
        d = np.diff(np.eye(3 + horizon), order, axis=0)[-horizon:]
        d, given_part = np.pad(d[:, 3:], ((0, 0), (0, 1))), d[:, :3] @ past
        rules, bounds = rules + [d, -d], bounds + [bound - given_part, bound + given_part]
    rest = np.diff(np.eye(horizon), axis=0)[-2:]
    found = linprog(
        np.eye(1, horizon + 1, horizon)[0],
        np.concatenate(rules),
        np.concatenate(bounds),
        np.pad(rest, ((0, 0), (0, 1))),
        np.zeros(2),
        bounds=[(None, None)] * horizon + [(0, None)],
    )
    assert found.success, found.message
    return found.x[:-1]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1), st.floats(0.05, 1.5), st.floats(0.05, 1.5), st.integers(1, 1024))
def test_braking_comes_to_rest_exactly_and_no_more_than_a_control_step_beyond_the_least_distance(v, a, j, speed):
    velocity, acceleration, jerk = v, a * v, j * a * v
    speed *= velocity / 1024
    past = np.float32([[-2 * speed], [-speed], [0]])
    motion = make(-INF, INF, velocity, acceleration, jerk, size=1)
    braking = motion.braking(past, LONG)
    path = np.concatenate([past.astype(np.float64), braking])
    for order, bound in enumerate((velocity, acceleration, jerk), start=1):
        reached = np.abs(np.diff(path, order, axis=0)[-LONG:]).max()
        assert reached <= bound + 2**order * EPS / 2 * np.abs(path).max(), f"difference of order {order}"
    assert (braking[-4:] == braking[-1]).all()
    until = np.flatnonzero(braking != braking[-1]).max(initial=0) + 6
    least = shortest_stop(past[:, 0].astype(np.float64), until, velocity * (1 + EPS), acceleration, jerk).max(initial=0)
    assert least - 1e-6 * until * speed <= braking.max() <= least + speed


def test_no_command_leads_to_where_braking_exceeds_a_limit_even_if_the_target_does_not():
    limits, speed = {"velocity": 10.0, "acceleration": 2.0, "jerk": 0.4375}, 2.75
    braking = make(**limits, size=1).braking(speed * np.float32([[-2], [-1], [0]]), 20)[:, 0]
    begin = np.concatenate([-braking[::-1], speed * np.arange(3)])  # braking, backwards, and a while at that speed
    target = np.float32(np.concatenate([begin, shortest_stop(begin[-3:], 20, **limits)]))[:, None]
    assert braking.max() > target.max() - begin[-1] + 0.1
    motion = make(-INF, target.max(), **limits, size=1)
    assert_within(motion, target)
    chunk = motion.within(target, NOTHING[:, :1])
    assert (chunk != target).any()
    for count in range(1, len(chunk) + 1):
        assert_within(motion, brake(motion, chunk[:count]))


@pytest.mark.parametrize("name", ["velocity", "acceleration", "jerk"])
def test_rest_stays_rest_and_without_limits_motion_stops_at_once(name):
    still, moving = np.float32([[0.3, 7.1]] * 3), np.float32([[0, 0], [0.1, 7], [0.3, 7.1]])
    np.testing.assert_array_equal(make(**{name: 0.0}).braking(still, 4), np.repeat(still[:1], 4, axis=0))
    np.testing.assert_array_equal(make().braking(moving, 4), np.repeat(moving[-1:], 4, axis=0))


@thorough
@given(motions(), hnp.arrays(np.float64, (3, 32, SIZE), elements=st.floats(-1, 1)))
def test_a_state_can_stop_if_and_only_if_braking_stays_within_the_limits(motion, drawn):
    """For 32 states at once, as dimensions; braking without walls is compared with the walls."""
    bounds = (motion.low, motion.high, motion.velocity, motion.acceleration, motion.jerk)
    low, high, velocity, acceleration, jerk = (np.tile(bound, 32) for bound in bounds)
    position, speed, change = drawn.reshape(3, -1)
    speed = speed * np.minimum(velocity, 0.3)
    change = change * np.minimum(acceleration, 0.3)
    past = np.stack([position - 2 * speed + change, position - speed, position]).astype(np.float32)
    free = make(-INF, INF, velocity, acceleration, jerk, size=len(low))
    path = np.concatenate([past.astype(np.float64), free.braking(past, LONGEST_STOP)])[1:]
    inside = (low <= path[1:].min(axis=0)) & (path[1:].max(axis=0) <= high) & (path[-3:] == path[-1]).all(axis=0)
    excess, rounding = np.abs(np.diff(path, axis=0)).max(axis=0) - velocity, EPS * np.abs(past).sum(axis=0)
    claimed = make(low, high, velocity, acceleration, jerk, size=len(low)).stops(
        MotionState.after(past.astype(np.float64))
    )
    assert (claimed <= (inside & (excess <= 2 * rounding))).all() and (claimed >= (inside & (excess <= 0))).all()


# Targets


ARM = {"velocity": 1 / 30, "acceleration": 3 / 30**2, "jerk": 10 / 30**3}  # 1 rad/s, 3 rad/s^2, 10 rad/s^3 at 30 Hz
H = 16


def follow(motion, target, control_steps, horizon=H, begin=0.0):
    """Follow the signal `target` (n + horizon,) in one dimension; every decision knows `horizon` of its values."""
    executed = np.full((1, 1), begin, np.float32)
    for start in range(0, len(target) - horizon, control_steps):
        chunk = np.float32(target[start : start + horizon, None])
        executed = execute(motion, executed, [(chunk, control_steps)])
    return executed[1 : len(target) - horizon + 1, 0]


@thorough
@given(st.data(), st.floats(0.02, 0.5), st.floats(0, 6), st.floats(0.01, 1), st.floats(1, 1.5))
def test_a_smooth_target_within_the_limits_is_unchanged_bit_for_bit(data, frequency, phase, amplitude, margin):
    """A sine may be as quick as its own largest differences: where it is fastest, it does not accelerate."""
    sine = np.float32(amplitude * np.sin(frequency * np.arange(-3, H) + phase))[:, None]
    largest = [margin * 1.01 * amplitude * (2 * np.sin(frequency / 2)) ** order for order in (1, 2, 3)]
    motion = make(-INF, INF, *largest, size=1)
    assert motion.within(sine[3:], sine[:3]).tobytes() == sine[3:].tobytes()
    slower = make(-INF, INF, largest[0], largest[1], 0.5 / margin * largest[2], size=1)
    assume(np.abs(differences(sine, 3)[6:]).max() > slower.jerk * 1.1)
    assert (slower.within(sine[3:], sine[:3]) != sine[3:]).any()


@pytest.mark.parametrize("control_steps", [1, 4, H])
@pytest.mark.parametrize("distance", [0.001, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("high", [INF, None], ids=["free", "at the limit"])
def test_a_step_is_reached_and_never_passed_and_not_much_later_than_at_best(control_steps, distance, high):
    goal = np.float32(distance)
    motion = make(-3.0, goal if high is None else high, **ARM, size=1)
    path = follow(motion, np.full(400, goal), control_steps)
    assert (path <= goal).all() and (path[-100:] == goal).all()
    assert (np.diff(path) >= 0).all()
    v, a, j = ARM.values()
    best = max(distance / v, 2 * (distance / a) ** (1 / 2), (32 * distance / j) ** (1 / 3))
    assert np.flatnonzero(path != goal).max(initial=0) <= 1.5 * best + control_steps


@pytest.mark.parametrize("control_steps", [1, 4, H // 2])
@pytest.mark.parametrize("share", [0.3, 0.9, -0.9])
def test_a_ramp_is_caught_up_with_and_followed_without_lag(control_steps, share):
    ramp = share * ARM["velocity"] * np.arange(1, 400)
    path = follow(make(**ARM, size=1), ramp, control_steps)
    lag = np.abs(path - ramp[: len(path)])
    assert lag.max() > ARM["velocity"] and lag[-150:].max() < 1e-6


@pytest.mark.parametrize("control_steps", [1, 4])
def test_a_rough_target_is_followed_without_being_lost(control_steps):
    """Noise that no arm could follow, around a motion that it can: what is left of it is less than it was."""
    rng = np.random.default_rng(0)
    smooth = 0.1 * np.sin(0.08 * np.arange(400))
    path = follow(make(**ARM, size=1), smooth + rng.normal(0, 0.01, 400), control_steps)
    assert np.std(path[50:] - smooth[50 : len(path)]) < 0.75 * 0.01
