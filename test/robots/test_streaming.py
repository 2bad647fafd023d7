# SPDX-License-Identifier: MIT
"""Commands stay within every limit, and a stop is always possible, whatever the target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efn_ros.robots.motion import RefusedActionError
from efn_ros.robots.streaming import LEAD, JointLimits, Stream, TrackingError

JOINTS, RATE_HZ, POLICY_HZ = 3, 100.0, 30.0
ROUNDING = 1e-6  # of third differences, in units of the jerk


def limits(**bounds):
    default = {"low": -1, "high": 1, "velocity": 1, "acceleration": 3, "jerk": 10, "tracking": 0.2, "reject": 0.5}
    return JointLimits(**{name: np.full(JOINTS, float(value)) for name, value in (default | bounds).items()})


def stream(at=0.0, free=None, **bounds):
    made = Stream(limits(**bounds), RATE_HZ, free)
    made.start(np.full(JOINTS, at))
    return made


def run(one, chunks, ticks=12, robot=lambda commands: commands[-1]):
    """Follow one chunk after another, then come to rest; return the commands (N, J). robot: commands -> measured."""
    commands = [one.posture.copy()]

    def tick():
        commands.append(one.command(len(commands) / RATE_HZ, robot(commands)).copy())

    for chunk in chunks:
        try:
            one.follow(np.asarray(chunk), POLICY_HZ, len(commands) / RATE_HZ)
        except RefusedActionError:
            pass
        for _ in range(ticks):
            tick()
    one.hold()
    for _ in range(300):
        tick()
    return np.array(commands)


def assert_within(commands, bounds):
    assert (bounds.low <= commands).all() and (commands <= bounds.high).all()
    padded = np.concatenate([np.repeat(commands[:1], 3, axis=0), commands])  # it began at rest
    for order, bound in enumerate((bounds.velocity, bounds.acceleration, bounds.jerk), start=1):
        rate = np.abs(np.diff(padded, order, axis=0)) * RATE_HZ**order
        assert (rate <= bound * (1 + ROUNDING) + 1e-12 * RATE_HZ**order).all(), f"difference {order}: {rate.max()}"


anything = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.floats(-1.5, 1.5, width=32)
wild = hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(2, 4)), elements=anything)
near = hnp.arrays(np.float64, (4, JOINTS), elements=st.floats(-0.3, 0.3))


@settings(max_examples=150)
@given(chunks=st.lists(wild | near, max_size=12), ticks=st.integers(1, 20), at=st.floats(-1, 1))
def test_no_target_exceeds_a_limit_or_prevents_rest(chunks, ticks, at):
    one = stream(at)
    commands = run(one, chunks, ticks)
    assert_within(commands, one.limits)
    assert one.at_rest and np.array_equal(commands[-1], commands[-2])


def test_the_first_command_is_the_measured_posture_whatever_the_target():
    one = stream(0.3)
    one.follow(np.full((3, JOINTS), 0.6), POLICY_HZ, 0.0)
    assert np.array_equal(one.command(0.0, np.full(JOINTS, 0.3)), np.full(JOINTS, 0.3))


def test_a_steady_chunk_is_followed_as_it_moves():
    one, speed = stream(), 0.3
    chunk = speed / POLICY_HZ * np.arange(90)[:, None].repeat(JOINTS, 1)
    commands = run(one, [chunk], ticks=200)
    wanted = speed * (np.arange(150, 200) - 1) / RATE_HZ
    assert np.abs(commands[150:200] - wanted[:, None]).max() < 1e-3


def test_it_stays_at_the_end_of_the_chunk():
    one = stream()
    commands = run(one, [np.full((5, JOINTS), 0.4)], ticks=300)
    assert np.abs(commands[300] - 0.4).max() < 1e-9
    assert np.array_equal(commands[300], commands[-1])


def test_seams_between_chunks_are_as_smooth_as_the_rest():
    rng = np.random.default_rng(0)
    one, at, chunks = stream(), np.zeros(JOINTS), []
    for _ in range(60):
        chunks.append(np.clip(at + np.cumsum(rng.normal(0, 0.03, (6, JOINTS)), axis=0), -1, 1))
        at = chunks[-1][3]
    assert_within(run(one, chunks, ticks=10), one.limits)


@pytest.mark.parametrize(
    "chunk, message",
    [
        ([[0.0, np.nan, 0.0]], r"target\[0\]\[1\] is nan"),
        ([[0.0] * 3, [0.0, 0.0, np.inf]], r"target\[1\]\[2\] is inf"),
        ([[0.0] * 2], r"shape \(1, 2\); \(H >= 1, 3\) was expected"),
        (np.zeros((0, 3)), "shape"),
        ([[0.0, 0.6, 0.0]], r"target\[0\]\[1\] jumps by 0.6000, beyond 0.5000"),
        ([[0.4] * 3, [-0.2, 0.4, 0.4]], r"target\[1\]\[0\] jumps by 0.6000"),
    ],
)
def test_a_refused_chunk_is_named_and_changes_nothing(chunk, message):
    one, other = stream(), stream()
    for each in (one, other):
        each.follow(np.full((3, JOINTS), 0.2), POLICY_HZ, 0.0)
    with pytest.raises(RefusedActionError, match=message):
        one.follow(np.array(chunk), POLICY_HZ, 0.0)
    for tick in range(20):
        still = np.zeros(JOINTS)
        assert np.array_equal(one.command(tick / RATE_HZ, still), other.command(tick / RATE_HZ, still))


def test_commands_lead_a_slow_robot_by_no_more_than_allowed():
    """It moves at a tenth of the commanded speed; commands wait for it."""
    one, robot = stream(), np.zeros(JOINTS)
    one.follow(np.linspace(0, 1, 90)[:, None].repeat(JOINTS, 1), POLICY_HZ, 0.0)
    for tick in range(600):
        command = one.command(tick / RATE_HZ, robot)
        assert (np.abs(command - robot) <= one.limits.tracking).all()
        robot = robot + np.clip(command - robot, -0.1 / RATE_HZ, 0.1 / RATE_HZ)
    assert np.abs(command - robot).max() == pytest.approx(LEAD * 0.2, abs=0.02)


def test_a_robot_that_is_pushed_away_is_not_commanded():
    one = stream()
    one.command(0.0, np.zeros(JOINTS))
    with pytest.raises(TrackingError, match="joint 1 is measured 0.3000 rad from its command, beyond 0.2000"):
        one.command(0.01, np.array([0.1, 0.3, 0.0]))


@pytest.mark.parametrize("at, message", [(1.2, "joint 0 is measured at 1.2000 rad"), (0.5, "outside the workspace")])
def test_it_does_not_start_beyond_a_limit(at, message):
    with pytest.raises(ValueError, match=message):
        stream(at, free=lambda postures: (postures < 0.4).all(axis=1))


@settings(max_examples=100)
@given(
    chunks=st.lists(near, min_size=1, max_size=10),
    normal=hnp.arrays(np.float64, JOINTS, elements=st.floats(-1, 1)).filter(lambda n: np.abs(n).sum() > 0.1),
    room=st.floats(0.0, 0.3),
)
def test_no_command_enters_a_forbidden_region_even_while_braking(chunks, normal, room):
    """Postures beyond a plane through the joint space are forbidden."""

    def free(postures):
        return postures @ normal <= room

    one = stream(free=free)
    commands = run(one, chunks, ticks=8)
    assert free(commands).all()
    assert_within(commands, one.limits)


@pytest.mark.parametrize(
    "bounds, message",
    [
        ({"velocity": 0}, "'velocity'.*above 0"),
        ({"low": 2}, "'low'.*below 'high'"),
        ({"jerk": np.inf}, "'jerk'.*finite"),
        ({"reject": np.nan}, "'reject'.*finite"),
    ],
)
def test_invalid_limits_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        limits(**bounds)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, np.inf, np.nan])
def test_an_invalid_rate_is_refused(rate_hz):
    with pytest.raises(ValueError, match="command_rate_hz"):
        Stream(limits(), rate_hz)
