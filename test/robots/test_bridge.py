# SPDX-License-Identifier: MIT
"""State, reason and commands of a bridge: every transition out of tracking, and the only one out of a stop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.robots.bridge import Bridge, Health, StartRefusedError, State
from efn_ros.robots.description import DELTA, Gripper, Layout, Timeouts
from efn_ros.robots.streaming import JointLimits, Stream

JOINTS, RATE_HZ, POLICY_HZ, PERIOD_S = 3, 100.0, 30.0, 0.01
LAYOUT = Layout(joints=(0, 1, 3), grippers=(2,))
HEALTHY = Health()


class Robot:
    """A bridge and a robot that follows every command, stepped by hand."""

    def __init__(self, **layout):
        bounds = {"low": -1, "high": 1, "velocity": 1, "acceleration": 3, "jerk": 10, "tracking": 0.2, "reject": 0.5}
        limits = JointLimits(**{name: np.full(JOINTS, float(value)) for name, value in bounds.items()})
        self.bridge = Bridge(Stream(limits, RATE_HZ), Layout((0, 1, 3), (2,), **layout), POLICY_HZ, Timeouts())
        self.bridge.health = HEALTHY
        self.now_s, self.step, self.posture, self.sent = 100.0, 0, np.zeros(JOINTS), []
        self.publishes, self.lag_s = True, 0.0  # lag_s: of the robot's clock and of its messages

    def tick(self, times=1):
        for _ in range(times):
            self.now_s += PERIOD_S
            if self.publishes:
                self.bridge.update_joint_states(self.posture, round((self.now_s - self.lag_s) * 1e9), self.now_s)
            command = self.bridge.tick(self.now_s)
            if command.posture is not None:
                self.posture = command.posture.copy()
            self.sent.append(command)
        return command

    def act(self, target=0.1, age_s=0.03, episode="e", step=None, gripper=0.5):
        self.step += 1
        row = np.array([target, target, gripper, target], np.float32)
        number = self.step if step is None else step
        self.bridge.act(np.tile(row, (30, 1)), episode, number, age_s, self.now_s)

    def started(self):
        self.tick(12)
        self.bridge.start(self.now_s)
        return self

    def tracking(self, target=0.1, decisions=6):
        self.started()
        for _ in range(decisions):
            self.act(target)
            self.tick(3)
        assert self.bridge.state == State.TRACKING
        return self


def test_nothing_is_sent_before_it_is_started():
    robot = Robot()
    command = robot.tick(20)
    robot.act()
    assert (command.state, command.posture) == (State.IDLE, None)
    assert robot.tick().posture is None


def test_it_starts_where_the_robot_is_and_holds_until_the_first_action():
    robot = Robot()
    robot.posture[:] = 0.4
    command = robot.started().tick()
    assert (command.state, command.reason) == (State.HOLDING, "no action was received")
    assert np.array_equal(command.posture, np.full(JOINTS, 0.4)) and np.isnan(command.closures).all()
    assert np.array_equal(robot.tick(100).posture, np.full(JOINTS, 0.4))


def test_what_is_not_ready_forbids_only_the_start():
    robot, unready = Robot(), Health(unready=("no subscriber",))
    robot.bridge.health = unready
    with pytest.raises(StartRefusedError, match="no subscriber"):
        robot.started()
    robot.bridge.health = HEALTHY
    robot.tracking()
    robot.bridge.health = unready
    robot.act()
    assert robot.tick().state == State.TRACKING


def test_actions_are_followed():
    robot = Robot().tracking(0.1, decisions=40)
    assert np.abs(robot.posture - 0.1).max() < 1e-3
    assert robot.sent[-1].closures == pytest.approx([0.5])


def test_deltas_add_up_from_the_command():
    robot = Robot(kind=DELTA).started()
    robot.posture[:] = 0.0
    chunk = np.tile(np.float32([0.01, 0.01, 0.0, 0.01]), (4, 1))
    robot.bridge.act(chunk, "e", 0, 0.0, robot.now_s)
    for _ in range(6):
        robot.tick()
    assert 0 < robot.posture[0] < 0.04


def test_it_holds_two_periods_after_the_last_action_and_continues_with_the_next():
    robot = Robot().tracking()  # which ends 0.03 s after the last action
    assert robot.tick(2).state == State.TRACKING and robot.tick().state == State.HOLDING
    held = robot.tick(200)
    assert (held.state, held.reason) == (State.HOLDING, "actions have ceased")
    assert np.array_equal(robot.tick(100).posture, held.posture)
    robot.act()
    assert robot.tick().state == State.TRACKING


def test_old_states_hold_and_then_stop():
    robot = Robot().tracking()
    robot.publishes = False
    states = []
    for _ in range(40):
        robot.act()
        states.append(robot.tick().state)
    assert 9 <= states.index(State.HOLDING) <= 10 and 29 <= states.index(State.STOPPED) <= 30
    assert "joint states are 0.3" in robot.bridge.reason


def test_states_with_the_same_stamp_are_ignored():
    robot = Robot().tracking()
    robot.publishes = False
    stamp_ns = round(robot.now_s * 1e9)
    for _ in range(9):
        robot.bridge.update_joint_states(robot.posture, stamp_ns, robot.now_s)
        robot.tick()
    robot.act()
    assert robot.tick(2).state == State.HOLDING


def test_states_that_are_delayed_are_old_although_they_keep_coming():
    robot = Robot()
    robot.lag_s = 5.0  # clocks need not agree
    robot.tracking()
    robot.lag_s += 0.15
    states = []
    for tick in range(31):
        robot.publishes = tick >= 15  # messages sent before are still in transit
        robot.act()
        states.append(robot.tick().state)
    assert states[10] == states[27] == State.HOLDING and states[-1] == State.STOPPED
    assert "joint states are 0.1" in robot.bridge.reason


def test_states_received_together_after_a_stall_have_their_true_age():
    robot = Robot().tracking()
    robot.publishes, began = False, robot.now_s
    for _ in range(20):
        robot.act()
        robot.tick()
    assert robot.bridge.state == State.HOLDING
    robot.publishes = True
    for late in range(20):
        robot.bridge.update_joint_states(robot.posture, round((began + (late + 1) * PERIOD_S) * 1e9), robot.now_s)
    robot.act()
    assert robot.tick().state == State.TRACKING


@pytest.mark.parametrize("rate", [1 - 5e-5, 1 + 5e-5])
def test_clocks_that_drift_apart_make_nothing_old(rate):
    robot = Robot()
    robot.started()
    for _ in range(100_000):  # of a lag that grows to half a second in 10,000 s
        robot.now_s += 0.1
        robot.bridge.update_joint_states(
            robot.posture, round((robot.now_s + (robot.now_s - 100) * (rate - 1)) * 1e9), robot.now_s
        )
        assert robot.bridge._joint_states.age_s(robot.now_s) < 0.01


def test_after_a_stop_for_late_states_their_new_lag_is_the_usual_one():
    robot = Robot().tracking()
    robot.publishes = False
    robot.tick(20)
    robot.publishes, robot.lag_s = True, 0.2
    robot.tick(40)
    assert robot.bridge.state == State.STOPPED
    robot.tick(40)
    robot.bridge.reset(robot.now_s)
    assert robot.tick().state == State.HOLDING


def test_one_old_state_after_a_pause_does_not_set_the_clock_back():
    robot = Robot().tracking()
    robot.publishes, stamp_ns = False, round((robot.now_s - 0.02) * 1e9)
    robot.tick(15)
    robot.bridge.update_joint_states(robot.posture, stamp_ns, robot.now_s)
    assert robot.bridge._joint_states.age_s(robot.now_s) > 0.14


def test_a_clock_set_back_is_accepted_after_a_pause_and_one_set_forward_at_once():
    for jump_s, lost in ((5.0, 10), (-5.0, 1)):
        robot = Robot().tracking()
        robot.lag_s += jump_s
        states = []
        for _ in range(20):
            robot.act()
            states.append(robot.tick().state)
        assert states.count(State.HOLDING) <= lost and states[-1] == State.TRACKING


@pytest.mark.parametrize("pause_s, received", [(0.06, True), (0.5, True), (0.5, False)])
def test_after_a_pause_of_its_own_it_begins_at_rest_where_it_was(pause_s, received):
    robot = Robot().tracking(0.4, decisions=12)
    before = [command.posture for command in robot.sent[-2:]]
    assert np.abs(np.diff(before, axis=0)).min() > 1e-3, "it moves"
    robot.now_s += pause_s
    if received:  # otherwise waiting messages are received after the next tick
        robot.bridge.update_joint_states(robot.posture, round(robot.now_s * 1e9), robot.now_s)
    robot.act(0.4)
    after = np.array([before[-1], *(robot.tick().posture for _ in range(3))])
    for order, bound in enumerate((1, 3, 10), start=1):
        padded = np.concatenate([after[:1]] * 3 + [after])
        assert np.abs(np.diff(padded, order, axis=0)).max() <= bound * PERIOD_S**order * (1 + 1e-6) + 1e-12


def test_late_actions_hold_and_then_stop():
    robot = Robot().tracking()
    states = []
    for _ in range(12):
        robot.act(age_s=0.3)
        states += [robot.tick().state for _ in range(3)]
    assert states[1] == State.TRACKING and states[4] == State.HOLDING and states[-1] == State.STOPPED
    assert "the observation behind the last action is 0.300 s old" in robot.bridge.reason


def test_one_late_action_does_not_stop():
    robot = Robot().tracking()
    robot.act(age_s=0.3)
    assert robot.tick(100).state == State.HOLDING
    robot.act()
    assert robot.tick().state == State.TRACKING and robot.bridge.counts["late"] == 1


def test_an_action_from_the_future_is_late():
    robot = Robot().tracking()
    robot.act(age_s=-5.0)
    assert robot.bridge.counts["late"] == 1


def test_repeated_and_overtaken_actions_are_dropped():
    robot = Robot().tracking()
    robot.act(-0.3, step=2)
    robot.act(-0.3, step=robot.step - 1)
    assert robot.bridge.counts["repeated"] == 2
    robot.act(0.2, episode="next", step=0)
    assert robot.bridge.counts["repeated"] == 2


@pytest.mark.parametrize(
    "chunk", [np.full((30, 4), np.nan), np.zeros((30, 3)), np.zeros((0, 4)), np.full((30, 4), 0.9), np.zeros(4)]
)
def test_a_refused_action_is_counted_and_the_robot_holds(chunk):
    robot = Robot().tracking()
    robot.bridge.act(chunk, "e", 99, 0.0, robot.now_s)
    assert robot.bridge.counts["refused"] == 1
    held = robot.tick(10)
    assert held.state == State.HOLDING and held.reason.startswith("refused: ")


def test_a_robot_that_does_not_follow_is_stopped():
    robot = Robot().tracking(0.4)
    frozen = robot.posture.copy()
    for step in range(60):
        robot.now_s += PERIOD_S
        noise = 1e-5 * (step % 2)
        robot.bridge.update_joint_states(frozen + noise, round(robot.now_s * 1e9), robot.now_s)
        if step % 3 == 0:
            robot.act(0.4 + step / 600)
        command = robot.bridge.tick(robot.now_s)
        assert command.posture is None or (np.abs(command.posture - frozen) <= 0.2).all()
    robot.posture = command.posture - 0.21
    assert robot.tick().state == State.STOPPED and "from its command, beyond 0.2000" in robot.bridge.reason


def test_joint_states_that_are_frozen_while_their_stamps_go_on_stop_it():
    robot = Robot().tracking(0.1)
    frozen = robot.posture.copy()
    for step in range(40):
        robot.now_s += PERIOD_S
        robot.bridge.update_joint_states(frozen, round(robot.now_s * 1e9), robot.now_s)
        if step % 3 == 0:
            robot.act(0.1)
        command = robot.bridge.tick(robot.now_s)
        if command.posture is None:
            break
        assert (np.abs(command.posture - frozen) <= 0.03 + PERIOD_S).all()
    assert robot.bridge.reason == "joint states have not changed while commands went on"


def test_joint_states_that_do_not_change_at_rest_are_no_fault():
    assert Robot().started().tick(300).state == State.HOLDING


def test_a_fault_of_the_robot_stops_at_once_and_halts_it():
    robot = Robot().tracking()
    robot.bridge.health = Health(faults=("left arm: error 0x100D, collision",))
    command = robot.tick()
    assert (command.state, command.posture, command.halt) == (State.STOPPED, None, True)
    assert command.reason == "left arm: error 0x100D, collision"
    assert not robot.tick().halt


@pytest.mark.parametrize("before", list(State))
def test_an_operator_stops_it_in_every_state_and_only_a_reset_releases(before):
    robot = Robot().tracking()
    if before == State.HOLDING:
        robot.tick(30)
    elif before == State.IDLE:
        robot.bridge.deactivate()
    elif before == State.YIELDED:
        robot.bridge.hand_over()
        assert robot.tick(100).state == State.YIELDED
    elif before == State.STOPPED:
        robot.bridge.stop("earlier")
    robot.bridge.stop("asked for")
    for release in (robot.act, robot.tick):
        release()
        assert (robot.bridge.state, robot.bridge.reason) == (State.STOPPED, "asked for")
    for refused in (robot.bridge.hand_over, lambda: robot.bridge.take_back(robot.now_s)):
        with pytest.raises(StartRefusedError):
            refused()
    assert all(command.posture is None for command in robot.sent[-1:])
    robot.tick(12)
    robot.bridge.reset(robot.now_s)
    command = robot.tick()
    assert command.state == (State.IDLE if before == State.IDLE else State.HOLDING)


def test_after_a_stop_it_begins_where_the_robot_is_and_not_where_it_was():
    robot = Robot().tracking()
    robot.bridge.stop("asked for")
    robot.posture = np.full(JOINTS, -0.5)
    robot.tick(12)
    robot.bridge.reset(robot.now_s)
    assert np.array_equal(robot.tick().posture, np.full(JOINTS, -0.5))


def test_a_stop_forbids_the_next_start():
    robot = Robot()
    robot.tick(12)
    robot.bridge.stop("asked for")
    with pytest.raises(StartRefusedError, match="it is stopped .asked for."):
        robot.bridge.start(robot.now_s)
    robot.bridge.reset(robot.now_s)
    assert robot.tick().state == State.IDLE


def test_a_reset_needs_what_a_start_needs():
    robot = Robot().tracking()
    robot.bridge.stop("asked for")
    robot.bridge.health = Health(faults=("the e-stop is pressed",))
    robot.tick(12)
    with pytest.raises(StartRefusedError, match="the e-stop is pressed"):
        robot.bridge.reset(robot.now_s)
    assert robot.bridge.state == State.STOPPED


def test_every_condition_that_forbids_a_start_is_named():
    robot = Robot()
    robot.bridge.health = Health(faults=("mode is 2, not 1", "left arm: error 0x1002"))
    with pytest.raises(
        StartRefusedError, match="mode is 2, not 1; left arm: error 0x1002; no joint states were received"
    ):
        robot.bridge.start(robot.now_s)
    robot.tick(2)
    robot.now_s += 1
    with pytest.raises(StartRefusedError, match="joint states are 1.000 s old"):
        robot.bridge.start(robot.now_s)


def test_it_does_not_start_while_the_arms_move_or_are_beyond_a_limit():
    robot = Robot()
    for _ in range(12):
        robot.posture = robot.posture + [0.0, 0.01, 0.0]
        robot.tick()
    with pytest.raises(StartRefusedError, match="joint 1 is moving: by 0.0"):
        robot.bridge.start(robot.now_s)
    robot.posture = np.array([0.0, 0.0, -1.5])
    robot.tick(12)
    with pytest.raises(StartRefusedError, match="joint 2 is measured at -1.5000 rad, outside"):
        robot.bridge.start(robot.now_s)
    assert robot.bridge.state == State.IDLE


def test_teleoperation_takes_over_and_gives_back_where_it_left_the_robot():
    robot = Robot().tracking()
    robot.bridge.hand_over()
    braking = robot.tick()
    assert (braking.state, braking.reason) == (State.HOLDING, "handing over") and braking.posture is not None
    robot.tick(80)
    robot.act(0.9)
    assert (robot.tick().state, robot.sent[-1].posture) == (State.YIELDED, None)
    robot.posture = np.full(JOINTS, 0.7)
    robot.tick(12)
    robot.bridge.take_back(robot.now_s)
    command = robot.tick()
    assert command.state == State.HOLDING and np.array_equal(command.posture, np.full(JOINTS, 0.7))


@pytest.mark.parametrize("posture, message", [([0.0, np.nan, 0.0], "joint 1 is nan"), ([0.0, 0.0], "hold 2 positions")])
def test_an_invalid_posture_is_refused(posture, message):
    robot = Robot()
    with pytest.raises(ValueError, match=message):
        robot.bridge.update_joint_states(np.array(posture), 1, 0.0)


def test_stamps_may_restart_after_a_pause():
    robot = Robot().tracking()
    robot.publishes = False
    robot.tick(12)
    robot.bridge.update_joint_states(robot.posture, 5, robot.now_s)
    robot.act()
    assert robot.tick().state == State.TRACKING


events = st.sampled_from(
    ["act", "late", "infinite", "wait", "mute", "publish", "stop", "reset", "fault", "heal", "yield", "take"]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(events, st.integers(1, 12)), max_size=40))
def test_after_any_events_commands_obey_the_limits_and_only_reset_leaves_a_stop(script):
    robot = Robot().started()
    was = State.HOLDING
    for event, ticks in script:
        if event == "act":
            robot.act(0.3)
        elif event == "late":
            robot.act(age_s=1.0)
        elif event == "infinite":
            robot.act(np.inf)
        elif event in ("mute", "publish"):
            robot.publishes = event == "publish"
        elif event == "stop":
            robot.bridge.stop("asked for")
        elif event in ("fault", "heal"):
            robot.bridge.health = Health(faults=("broken",) if event == "fault" else ())
        elif event in ("reset", "yield", "take"):
            calls = {"reset": lambda: robot.bridge.reset(robot.now_s), "yield": robot.bridge.hand_over}
            try:
                calls.get(event, lambda: robot.bridge.take_back(robot.now_s))()
            except StartRefusedError:
                pass
        assert not (was == State.STOPPED and robot.bridge.state != State.STOPPED and event != "reset")
        robot.tick(ticks)
        was = robot.bridge.state
        sends = was in (State.HOLDING, State.TRACKING)
        assert (robot.sent[-1].posture is not None) == sends
        assert not (sends and robot.bridge.health.faults)
    sent = [None if command.posture is None else command.posture for command in robot.sent]
    for before, after in zip(sent[:-1], sent[1:], strict=True):
        if before is not None and after is not None:
            assert (np.abs(after - before) <= 1 * PERIOD_S + 1e-9).all() or np.array_equal(after, robot.posture)


def test_invalid_timeouts_and_layouts_are_refused():
    with pytest.raises(ValueError, match="state_s is 0"):
        Timeouts(state_s=0)
    for entries in ({"joints": (0, 1), "grippers": (1,)}, {"joints": ()}, {"joints": (1, 2)}):
        with pytest.raises(ValueError, match="joints and grippers name"):
            Layout(**entries)
    with pytest.raises(ValueError, match="kind of action is 'relative'"):
        Layout((0,), kind="relative")


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(0, 1))
def test_a_gripper_measures_what_it_was_commanded(opened, closed, closure):
    if abs(closed - opened) < 1e-3:
        return
    gripper = Gripper("left", opened, closed)
    assert gripper.closure(gripper.command(closure)) == pytest.approx(closure, abs=1e-6)


def test_a_gripper_that_cannot_close_is_refused():
    with pytest.raises(ValueError, match="gripper 'left' is open at 1.0 and closed at 1.0"):
        Gripper("left", 1.0, 1.0)
