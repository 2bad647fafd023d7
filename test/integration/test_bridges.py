# SPDX-License-Identifier: MIT
"""Bridges to robots' arms, told by messages alone: by their own names, in their own kind."""

import signal
import time

import numpy as np
import pytest
from efn_ros.msg import BridgeState, CorrectedAction
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from efn_ros.ros import conversions
from efn_ros.ros.fields import from_field
from efn_ros.ros.qos import LATCHED, SENSOR_DATA, STEPS
from efn_ros.types import Correction, Mode, StepContext

pytestmark = [pytest.mark.integration, pytest.mark.alone]

READY = {"activate": "when ready", "timeouts.state_s": 2.0, "timeouts.late_s": 3.0, "timeouts.stop_s": 5.0}
UNCHECKED = {"workspace.model": "", "workspace.wrists_apart_m": 0.0}


class Robot:
    """A robot that is where it was commanded to be last. target: of a command, joints and positions."""

    def __init__(self, graph, topic, names, positions, kind, commands, target):
        self.graph, self.at, self.step, self._target = graph, dict(zip(names, positions, strict=True)), 0, target
        node = graph.client.node
        self.commands = []
        self._states = node.create_publisher(JointState, topic, SENSOR_DATA)
        self._actions = node.create_publisher(CorrectedAction, "corrected_action", STEPS)
        self.commands = graph.collect(kind, commands, STEPS)
        self.states = graph.collect(BridgeState, "bridge_state", LATCHED)
        node.create_timer(0.02, self._speak)

    def _speak(self):
        if self.commands:
            self.at |= dict(zip(*self._target(self.commands[-1]), strict=True))
        stamp = self.graph.client.node.get_clock().now().to_msg()
        state = JointState(name=list(self.at), position=list(self.at.values()))
        state.header.stamp = stamp
        self._states.publish(state)

    def until(self, state):
        self.graph.spin_until(lambda: self.states and self.states[-1].state == state, f"it is not {state}", 30.0)

    def act(self, action, decisions=15):
        for _ in range(decisions):
            now_ns = time.time_ns()
            context = StepContext("episode", self.step, now_ns, "task", "instruction")
            chunk = np.tile(np.float32(action), (30, 1))
            correction = Correction(context, chunk, chunk * 0, chunk, 0.0, Mode.BASE)
            self._actions.publish(conversions.correction_to_msg(correction, 0.0, now_ns, now_ns))
            self.step += 1
            self.graph.spin_for(1 / 30)


def test_genie_sim_is_commanded_by_its_own_names_grippers_among_them(start):
    arms = [f"idx{side}{i}_arm_{letter}_joint{i}" for side, letter in ((2, "l"), (6, "r")) for i in range(1, 8)]
    grippers = ["idx41_gripper_l_outer_joint1", "idx81_gripper_r_outer_joint1"]
    others = ["idx01_body_joint1", *grippers, *reversed(arms)]  # in another order, with joints that are not commanded
    at = dict(zip(arms, np.linspace(-0.5, 0.5, 14).tolist(), strict=True)) | dict.fromkeys(grippers, 0.78)
    graph = start(
        {"agibot_g1_bridge": READY | UNCHECKED}, name="agibot_g1_genie_sim", base={},
        only=["agibot_g1_bridge"], ready=False,
    )  # fmt: skip
    robot = Robot(
        graph, "/joint_states", others, [at.get(name, 0.3) for name in others], JointState, "/joint_command",
        lambda command: (command.name, command.position),
    )  # fmt: skip
    bodies = graph.collect(JointState, "proprioception", SENSOR_DATA)
    robot.until("holding")
    action = np.insert(np.linspace(-0.5, 0.5, 14) + 0.05, [7, 14], [1.0, 0.0])
    robot.act(action)
    robot.until("holding")
    first, last = robot.commands[0], robot.commands[-1]
    assert list(first.name)[:14] == arms
    np.testing.assert_allclose(from_field(first.position)[:14], np.linspace(-0.5, 0.5, 14), atol=1e-6)
    tracked = next(c for c in reversed(robot.commands) if len(c.name) == 16)
    assert list(tracked.name) == arms + grippers
    np.testing.assert_allclose(tracked.position[14:], [0.0, 0.78], atol=1e-6)
    moved = from_field(last.position)[:14] - np.linspace(-0.5, 0.5, 14)
    assert (moved > 0.01).all() and (moved < 0.051).all()
    body = from_field(bodies[-1].position)
    np.testing.assert_allclose(body[[7, 15]], [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(np.delete(body, [7, 15]), from_field(last.position)[:14], atol=1e-6)


def test_a_plain_arm_takes_trajectories(start):
    joints = [f"joint{i}" for i in range(1, 8)]
    at = [0.1, 0.2, 0.3, -1.0, 0.5, 1.0, 0.0]
    graph = start(
        {"trajectory_bridge": READY}, name="arm_7dof", base={}, only=["trajectory_bridge"], ready=False
    )  # fmt: skip
    robot = Robot(
        graph, "/joint_states", joints, at, JointTrajectory, "/arm_controller/joint_trajectory",
        lambda command: (command.joint_names, command.points[0].positions),
    )  # fmt: skip
    robot.until("holding")
    robot.act(np.add(at, 0.05))
    robot.until("holding")
    first, last = robot.commands[0], robot.commands[-1]
    assert list(first.joint_names) == joints and len(first.points) == 1
    assert first.points[0].time_from_start.nanosec == 10_000_000
    np.testing.assert_allclose(first.points[0].positions, at, atol=1e-6)
    moved = np.subtract(last.points[0].positions, at)
    assert (moved > 0.01).all() and (moved < 0.051).all()
    assert {state.state for state in robot.states} >= {"holding", "tracking"}


class PlainArm(Robot):
    """The arm of seven joints, with what an operator asks of its bridge."""

    JOINTS = [f"joint{i}" for i in range(1, 8)]
    AT = [0.1, 0.2, 0.3, -1.0, 0.5, 1.0, 0.0]

    def __init__(self, graph):
        super().__init__(
            graph, "/joint_states", self.JOINTS, self.AT, JointTrajectory, "/arm_controller/joint_trajectory",
            lambda command: (command.joint_names, command.points[0].positions),
        )  # fmt: skip

    def call(self, kind, name, **request):
        client = self.graph.client.node.create_client(kind, f"trajectory_bridge/{name}")
        self.graph.spin_until(client.service_is_ready, f"{name} is not there", 20.0)
        return self.graph.client.call(client, kind.Request(**request))

    def change(self, transition):
        return self.call(ChangeState, "change_state", transition=Transition(id=transition)).success


@pytest.fixture
def arm(start):
    graph = start({"trajectory_bridge": READY}, name="arm_7dof", base={}, only=["trajectory_bridge"], ready=False)
    arm = PlainArm(graph)
    arm.until("holding")
    return arm


def test_a_bridge_is_deactivated_only_at_rest_and_a_stop_outlives_its_cleanup(arm):
    target = np.add(arm.AT, 0.2)
    arm.act(target, decisions=10)
    assert not arm.change(Transition.TRANSITION_DEACTIVATE), "in motion"
    arm.graph.spin_until(lambda: arm.states[-1].reason == "braking", "it does not brake", 10.0)
    arm.graph.spin_for(1.0)
    speeds = np.abs(np.diff([c.points[0].positions for c in arm.commands], axis=0)) * 100
    assert speeds.max() > 0.05 and speeds[-1].max() == 0
    assert arm.change(Transition.TRANSITION_DEACTIVATE)
    arm.until("idle")
    assert arm.call(Trigger, "stop").success
    arm.until("stopped")
    for transition in (Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE):
        assert arm.change(transition)
    assert not arm.change(Transition.TRANSITION_ACTIVATE), "stopped"
    assert "stopped by the operator" in arm.states[-1].reason
    sent = len(arm.commands)
    arm.graph.spin_for(0.5)
    assert arm.call(Trigger, "reset").success and len(arm.commands) == sent
    assert arm.change(Transition.TRANSITION_ACTIVATE)
    arm.until("holding")


def test_no_message_and_no_transition_ends_the_process_that_commands_an_arm(arm):
    node, process = arm.graph.client.node, arm.graph.bringup.process("trajectory_bridge")
    states = node.create_publisher(JointState, "/joint_states", SENSOR_DATA)
    actions = node.create_publisher(CorrectedAction, "corrected_action", STEPS)
    arm.graph.spin_for(0.5)
    for _ in range(3):
        states.publish(JointState(name=arm.JOINTS))
        states.publish(JointState(name=[f"hand_{i}" for i in range(20)], position=[1.5] * 20))
        states.publish(JointState(name=arm.JOINTS, position=[float("nan")] * 7))
        actions.publish(CorrectedAction())
    client = node.create_client(ChangeState, "trajectory_bridge/change_state")
    arm.graph.spin_until(client.service_is_ready, "it cannot be asked", 20.0)
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CLEANUP)))  # while active
    arm.graph.spin_for(1.0)
    assert process.poll() is None
    arm.act(np.add(arm.AT, 0.05))
    assert "tracking" in {state.state for state in arm.states[-3:]}
    at = np.array([c.points[0].positions for c in arm.commands])
    assert (np.abs(at - arm.AT) < 0.06).all(), "a hand's joints are none of the arm's"


def test_a_bridge_that_is_asked_to_end_brakes_first(arm):
    arm.act(np.add(arm.AT, 0.3), decisions=10)
    process = arm.graph.bringup.process("trajectory_bridge")
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 3.0
    while process.poll() is None and time.monotonic() < deadline:
        arm.graph.client.spin_until(lambda: True, 1.0, "")
        arm.graph.client._executor.spin_once(timeout_sec=0.01)
    assert process.poll() == 0
    speeds = np.abs(np.diff([c.points[0].positions for c in arm.commands], axis=0)).max(axis=1) * 100
    assert speeds.max() > 0.1 and speeds[-1] < 0.01
