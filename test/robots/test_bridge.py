"""Which state the bridge is in, why, and what it sends: every way out of tracking, and the only way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.robots.bridge import Bridge, Health, StartRefusedError, State, Timeouts
from efn_ros.robots.description import DELTA, Gripper, Layout
from efn_ros.robots.streaming import JointLimits, Stream

JOINTS, RATE_HZ, POLICY_HZ, PERIOD_S = 3, 100.0, 30.0, 0.01
LAYOUT = Layout(joints=(0, 1, 3), grippers=(2,))
HEALTHY = Health()


class Robot:
    """A bridge with a robot that goes where it is told, stepped by hand."""

    def __init__(self, **layout):
        bounds = {"low": -1, "high": 1, "velocity": 1, "acceleration": 3, "jerk": 10, "tracking": 0.2, "reject": 0.5}
        limits = JointLimits(**{name: np.full(JOINTS, float(value)) for name, value in bounds.items()})
        self.bridge = Bridge(Stream(limits, RATE_HZ), Layout((0, 1, 3), (2,), **layout), POLICY_HZ, Timeouts())
        self.bridge.health = HEALTHY
        self.now_s, self.step, self.posture, self.sent = 100.0, 0, np.zeros(JOINTS), []
        self.speaks, self.lag_s = True, 0.0  # lag_s: of the robot's clock, and of the way from it

    def tick(self, times=1):
        for _ in range(times):
            self.now_s += PERIOD_S
            if self.speaks:
                self.bridge.measured(self.posture, round((self.now_s - self.lag_s) * 1e9), self.now_s)
            order = self.bridge.tick(self.now_s)
            if order.posture is not None:
                self.posture = order.posture.copy()
            self.sent.append(order)
        return order

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
    order = robot.tick(20)
    robot.act()
    assert (order.state, order.posture) == (State.IDLE, None)
    assert robot.tick().posture is None


def test_it_starts_where_the_robot_is_and_holds_until_an_action_comes():
    robot = Robot()
    robot.posture[:] = 0.4
    order = robot.started().tick()
    assert (order.state, order.reason) == (State.HOLDING, "no action has come")
    assert np.array_equal(order.posture, np.full(JOINTS, 0.4)) and np.isnan(order.closures).all()
    assert np.array_equal(robot.tick(100).posture, np.full(JOINTS, 0.4))


def test_what_is_not_ready_forbids_to_begin_and_no_more():
    robot, unready = Robot(), Health(unready=("nobody listens",))
    robot.bridge.health = unready
    with pytest.raises(StartRefusedError, match="nobody listens"):
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


def test_it_holds_two_periods_after_the_last_action_and_goes_on_with_the_next():
    robot = Robot().tracking()  # which ends 0.03 s after the last action
    assert robot.tick(2).state == State.TRACKING and robot.tick().state == State.HOLDING
    held = robot.tick(200)
    assert (held.state, held.reason) == (State.HOLDING, "actions have ceased")
    assert np.array_equal(robot.tick(100).posture, held.posture)
    robot.act()
    assert robot.tick().state == State.TRACKING


def test_states_that_are_old_hold_and_then_stop():
    robot = Robot().tracking()
    robot.speaks = False
    states = []
    for _ in range(40):
        robot.act()
        states.append(robot.tick().state)
    assert 9 <= states.index(State.HOLDING) <= 10 and 29 <= states.index(State.STOPPED) <= 30
    assert "joint states are 0.3" in robot.bridge.reason


def test_states_with_the_same_stamp_are_no_news():
    robot = Robot().tracking()
    robot.speaks = False
    stamp_ns = round(robot.now_s * 1e9)
    for _ in range(9):
        robot.bridge.measured(robot.posture, stamp_ns, robot.now_s)
        robot.tick()
    robot.act()
    assert robot.tick(2).state == State.HOLDING


def test_states_that_take_longer_than_they_did_are_old_although_they_keep_coming():
    robot = Robot()
    robot.lag_s = 5.0  # clocks need not agree
    robot.tracking()
    robot.lag_s += 0.15
    states = []
    for tick in range(31):
        robot.speaks = tick >= 15  # what was sent is still on its way
        robot.act()
        states.append(robot.tick().state)
    assert states[10] == states[27] == State.HOLDING and states[-1] == State.STOPPED
    assert "joint states are 0.1" in robot.bridge.reason


def test_states_that_come_all_at_once_after_a_stall_are_as_old_as_they_are():
    robot = Robot().tracking()
    robot.speaks, began = False, robot.now_s
    for _ in range(20):
        robot.act()
        robot.tick()
    assert robot.bridge.state == State.HOLDING
    robot.speaks = True
    for late in range(20):
        robot.bridge.measured(robot.posture, round((began + (late + 1) * PERIOD_S) * 1e9), robot.now_s)
    robot.act()
    assert robot.tick().state == State.TRACKING


@pytest.mark.parametrize("rate", [1 - 5e-5, 1 + 5e-5])
def test_clocks_that_drift_apart_make_nothing_old(rate):
    robot = Robot()
    robot.started()
    for _ in range(100_000):  # of a lag that grows to half a second in 10,000 s
        robot.now_s += 0.1
        robot.bridge.measured(robot.posture, round((robot.now_s + (robot.now_s - 100) * (rate - 1)) * 1e9), robot.now_s)
        assert robot.bridge._age_s(robot.now_s) < 0.01


def test_after_a_stop_for_late_states_their_new_lag_is_the_usual_one():
    robot = Robot().tracking()
    robot.speaks = False
    robot.tick(20)
    robot.speaks, robot.lag_s = True, 0.2
    robot.tick(40)
    assert robot.bridge.state == State.STOPPED
    robot.tick(40)
    robot.bridge.reset(robot.now_s)
    assert robot.tick().state == State.HOLDING


def test_one_old_state_after_a_silence_is_no_clock_that_was_set_back():
    robot = Robot().tracking()
    robot.speaks, stamp_ns = False, round((robot.now_s - 0.02) * 1e9)
    robot.tick(15)
    robot.bridge.measured(robot.posture, stamp_ns, robot.now_s)
    assert robot.bridge._age_s(robot.now_s) > 0.14


def test_a_clock_that_is_set_back_is_believed_after_a_moment_and_one_that_is_set_forward_at_once():
    for jump_s, lost in ((5.0, 10), (-5.0, 1)):
        robot = Robot().tracking()
        robot.lag_s += jump_s
        states = []
        for _ in range(20):
            robot.act()
            states.append(robot.tick().state)
        assert states.count(State.HOLDING) <= lost and states[-1] == State.TRACKING


@pytest.mark.parametrize("pause_s, heard", [(0.06, True), (0.5, True), (0.5, False)])
def test_after_a_pause_of_its_own_it_begins_at_rest_where_it_was(pause_s, heard):
    robot = Robot().tracking(0.4, decisions=12)
    before = [order.posture for order in robot.sent[-2:]]
    assert np.abs(np.diff(before, axis=0)).min() > 1e-3, "it moves"
    robot.now_s += pause_s
    if heard:  # else what waits is heard after the next tick
        robot.bridge.measured(robot.posture, round(robot.now_s * 1e9), robot.now_s)
    robot.act(0.4)
    after = np.array([before[-1], *(robot.tick().posture for _ in range(3))])
    for order, bound in enumerate((1, 3, 10), start=1):
        padded = np.concatenate([after[:1]] * 3 + [after])
        assert np.abs(np.diff(padded, order, axis=0)).max() <= bound * PERIOD_S**order * (1 + 1e-6) + 1e-12


def test_actions_that_come_late_hold_and_then_stop():
    robot = Robot().tracking()
    states = []
    for _ in range(12):
        robot.act(age_s=0.3)
        states += [robot.tick().state for _ in range(3)]
    assert states[1] == State.TRACKING and states[4] == State.HOLDING and states[-1] == State.STOPPED
    assert "answers what was seen 0.300 s ago" in robot.bridge.reason


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
        robot.bridge.measured(frozen + noise, round(robot.now_s * 1e9), robot.now_s)
        if step % 3 == 0:
            robot.act(0.4 + step / 600)
        order = robot.bridge.tick(robot.now_s)
        assert order.posture is None or (np.abs(order.posture - frozen) <= 0.2).all()
    robot.posture = order.posture - 0.21
    assert robot.tick().state == State.STOPPED and "from its command, beyond 0.2000" in robot.bridge.reason


def test_joint_states_that_are_frozen_while_their_stamps_go_on_stop_it():
    robot = Robot().tracking(0.1)
    frozen = robot.posture.copy()
    for step in range(40):
        robot.now_s += PERIOD_S
        robot.bridge.measured(frozen, round(robot.now_s * 1e9), robot.now_s)
        if step % 3 == 0:
            robot.act(0.1)
        order = robot.bridge.tick(robot.now_s)
        if order.posture is None:
            break
        assert (np.abs(order.posture - frozen) <= 0.03 + PERIOD_S).all()
    assert robot.bridge.reason == "joint states have not changed while commands went on"


def test_joint_states_that_do_not_change_at_rest_are_no_fault():
    assert Robot().started().tick(300).state == State.HOLDING


def test_a_fault_of_the_robot_stops_at_once_and_tells_it_to_halt():
    robot = Robot().tracking()
    robot.bridge.health = Health(faults=("left arm: error 0x100D, collision",))
    order = robot.tick()
    assert (order.state, order.posture, order.halt) == (State.STOPPED, None, True)
    assert order.reason == "left arm: error 0x100D, collision"
    assert not robot.tick().halt


@pytest.mark.parametrize("before", list(State))
def test_an_operator_stops_it_in_every_state_and_only_a_reset_releases(before):
    robot = Robot().tracking()
    if before == State.HOLDING:
        robot.tick(30)
    elif before == State.IDLE:
        robot.bridge.idle()
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
    assert all(order.posture is None for order in robot.sent[-1:])
    robot.tick(12)
    robot.bridge.reset(robot.now_s)
    order = robot.tick()
    assert order.state == (State.IDLE if before == State.IDLE else State.HOLDING)


def test_after_a_stop_it_begins_where_the_robot_is_and_not_where_it_was():
    robot = Robot().tracking()
    robot.bridge.stop("asked for")
    robot.posture = np.full(JOINTS, -0.5)
    robot.tick(12)
    robot.bridge.reset(robot.now_s)
    assert np.array_equal(robot.tick().posture, np.full(JOINTS, -0.5))


def test_a_stop_outlives_the_start_that_follows_it():
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
    with pytest.raises(StartRefusedError, match="mode is 2, not 1; left arm: error 0x1002; no joint states have come"):
        robot.bridge.start(robot.now_s)
    robot.tick(2)
    robot.now_s += 1
    with pytest.raises(StartRefusedError, match="joint states are 1.000 s old"):
        robot.bridge.start(robot.now_s)


def test_it_does_not_start_while_the_arms_move_or_are_where_they_may_not_be():
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
    order = robot.tick()
    assert order.state == State.HOLDING and np.array_equal(order.posture, np.full(JOINTS, 0.7))


@pytest.mark.parametrize("posture, message", [([0.0, np.nan, 0.0], "joint 1 is nan"), ([0.0, 0.0], "hold 2 positions")])
def test_a_posture_that_is_none_is_refused(posture, message):
    robot = Robot()
    with pytest.raises(ValueError, match=message):
        robot.bridge.measured(np.array(posture), 1, 0.0)


def test_stamps_may_begin_anew_after_a_pause():
    robot = Robot().tracking()
    robot.speaks = False
    robot.tick(12)
    robot.bridge.measured(robot.posture, 5, robot.now_s)
    robot.act()
    assert robot.tick().state == State.TRACKING


events = st.sampled_from(
    ["act", "late", "wild", "silence", "mute", "speak", "stop", "reset", "fault", "heal", "yield", "take"]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(events, st.integers(1, 12)), max_size=40))
def test_whatever_happens_what_is_sent_obeys_and_a_stop_is_only_left_by_reset(script):
    robot = Robot().started()
    was = State.HOLDING
    for event, ticks in script:
        if event == "act":
            robot.act(0.3)
        elif event == "late":
            robot.act(age_s=1.0)
        elif event == "wild":
            robot.act(np.inf)
        elif event in ("mute", "speak"):
            robot.speaks = event == "speak"
        elif event == "stop":
            robot.bridge.stop("asked for")
        elif event in ("fault", "heal"):
            robot.bridge.health = Health(faults=("broken",) if event == "fault" else ())
        elif event in ("reset", "yield", "take"):
            how = {"reset": lambda: robot.bridge.reset(robot.now_s), "yield": robot.bridge.hand_over}
            try:
                how.get(event, lambda: robot.bridge.take_back(robot.now_s))()
            except StartRefusedError:
                pass
        assert not (was == State.STOPPED and robot.bridge.state != State.STOPPED and event != "reset")
        robot.tick(ticks)
        was = robot.bridge.state
        sends = was in (State.HOLDING, State.TRACKING)
        assert (robot.sent[-1].posture is not None) == sends
        assert not (sends and robot.bridge.health.faults)
    sent = [None if order.posture is None else order.posture for order in robot.sent]
    for before, after in zip(sent[:-1], sent[1:], strict=True):
        if before is not None and after is not None:
            assert (np.abs(after - before) <= 1 * PERIOD_S + 1e-9).all() or np.array_equal(after, robot.posture)


def test_timeouts_and_layout_that_are_none_are_refused():
    with pytest.raises(ValueError, match="state_s is 0"):
        Timeouts(state_s=0)
    for wrong in ({"joints": (0, 1), "grippers": (1,)}, {"joints": ()}, {"joints": (1, 2)}):
        with pytest.raises(ValueError, match="joints and grippers name"):
            Layout(**wrong)
    with pytest.raises(ValueError, match="kind of action is 'relative'"):
        Layout((0,), kind="relative")


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(0, 1))
def test_a_gripper_understands_its_own_commands(opened, closed, closure):
    if abs(closed - opened) < 1e-3:
        return
    gripper = Gripper("left", opened, closed)
    assert gripper.closure(gripper.command(closure)) == pytest.approx(closure, abs=1e-6)


def test_a_gripper_that_cannot_close_is_refused():
    with pytest.raises(ValueError, match="gripper 'left' is open at 1.0 and closed at 1.0"):
        Gripper("left", 1.0, 1.0)
