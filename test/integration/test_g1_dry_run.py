# SPDX-License-Identifier: MIT
"""The graph of an AgiBot G1, closed loop with a simulated one: what is sent is within every limit, every fault leads to
the right state.
"""

import signal
import time

import numpy as np
import pytest
import yaml
from efn_ros.msg import BridgeState, CorrectedAction, EpisodeState
from efn_ros.srv import EndEpisode
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Int32
from std_srvs.srv import SetBool, Trigger
from wire import Wire

from efn_ros.ros.fields import from_field
from efn_ros.ros.qos import LATCHED, SENSOR_DATA, STEPS

pytestmark = [pytest.mark.integration, pytest.mark.simulator, pytest.mark.alone]

RATE_HZ, VELOCITY, ACCELERATION, JERK, TRACKING = 100.0, 1.0, 3.0, 10.0, 0.2
QUIET = {"**": {"diagnostics_period_s": 0.2}}
INSTRUCTION, CAMERA = "move", "camera/head/image"


class Watched:
    """The graph, with all that the bridge says and sends."""

    def __init__(self, graph):
        self.graph = graph
        self.states = graph.collect(BridgeState, "bridge_state", LATCHED)
        self.commands = graph.collect(JointState, "arm_command", STEPS)
        self.mode = graph.client.node.create_publisher(Int32, "control_mode", STEPS)
        self.measured = graph.collect(JointState, "arm_state", SENSOR_DATA)

    def until(self, state, timeout_s=20.0, **why):
        self.graph.spin_until(lambda: self.states and self.states[-1].state == state, f"it is not {state}", timeout_s)
        return self.states[-1].reason

    def begin(self):
        return self.graph.start_episode("move", instruction=INSTRUCTION)

    def call(self, kind, name, **request):
        client = self.graph.client.node.create_client(kind, name)
        return self.graph.client.call(client, kind.Request(**request))

    def bridge(self, verb):
        return self.call(Trigger, f"agibot_g1_bridge/{verb}")

    def driver(self, fault, on=True):
        return self.call(SetBool, f"agibot_g1_driver/{fault}", data=on)

    def release(self):
        """Out of a stop."""
        self.mode.publish(Int32(data=1))

        def released():
            self.graph.spin_for(0.3)
            return self.bridge("reset").success

        self.graph.spin_until(released, "it stays stopped")

    def positions(self, messages):
        return np.array([from_field(message.position) for message in messages])


@pytest.fixture
def robot(start):
    graph = start(name="agibot_g1_dry_run", base=QUIET, ready=False)
    watched = Watched(graph)
    graph.wait_active()
    return watched


def assert_within(commands):
    for order, bound in enumerate((VELOCITY, ACCELERATION, JERK), start=1):
        rates = np.abs(np.diff(commands, order, axis=0)) * RATE_HZ**order
        assert rates.max() <= bound * (1 + 1e-6), f"difference {order}"


def test_a_dry_run_moves_the_arms_within_every_limit_and_stores_the_episode(robot):
    assert robot.until("holding") == "no action was received"
    start = robot.positions(robot.measured[-1:])[0]
    first = robot.positions(robot.commands[:1])[0]
    assert np.abs(first - start).max() < 0.005, "the first command is the measured posture"
    robot.begin()
    robot.until("tracking")
    begun = len(robot.measured)

    def every_joint_has_moved() -> bool:
        robot.graph.spin_for(0.5)
        measured = robot.positions(robot.measured[begun:])
        return len(measured) > 0 and np.ptp(measured, axis=0).min() > 0.05

    robot.graph.spin_until(every_joint_has_moved, "not every joint moves", 60.0)
    assert_within(robot.positions(robot.commands))
    assert {state.state for state in robot.states[-2:]} <= {"tracking", "holding"}
    assert robot.call(EndEpisode, "end_episode", outcome=EpisodeState.OUTCOME_SUCCESS).success
    client = robot.graph.client
    robot.graph.spin_until(
        lambda: client.episode.saved or client.episode.not_saved_reason, "nobody says what became of it"
    )
    assert client.episode.saved, client.episode.not_saved_reason
    robot.until("holding")
    assert [rollout.record.robot for rollout in robot.graph.rollouts()] == ["agibot_g1_simulated"]


def test_an_operator_stops_it_and_only_a_reset_releases(robot):
    robot.until("holding")
    robot.begin()
    robot.until("tracking")
    robot.graph.spin_for(1.0)
    assert robot.bridge("stop").success
    assert robot.until("stopped") == "stopped by the operator"
    robot.graph.spin_for(0.2)
    sent = len(robot.commands)
    robot.graph.spin_for(1.0)
    assert len(robot.commands) == sent, "nothing is sent after a stop"
    at_rest = robot.positions(robot.measured[-50:])
    assert np.ptp(at_rest, axis=0).max() < 0.01
    refused = robot.bridge("reset")
    assert not refused.success and "mode of motion control is 0, not 1" in refused.message


def test_a_fault_of_the_robot_stops_it_with_the_reason_in_words_and_a_reset_releases(robot):
    robot.until("holding")
    robot.begin()
    for fault, said in (("estop", "the e-stop is pressed"), ("collide", "collision"), ("freeze", "have not changed")):
        robot.until("tracking")
        assert robot.driver(fault).success
        assert said in robot.until("stopped")
        assert robot.driver(fault, on=False).success
        robot.release()


@pytest.fixture
def wired(start, tmp_path):
    """Through a wire: joint states, actions, commands and a camera."""
    remap = {
        "agibot_g1_bridge": {"arm_state": "wire/arm_state", "corrected_action": "wire/corrected_action"},
        "agibot_g1_driver": {"arm_command": "wire/arm_command"},
        "camera_ingest": {CAMERA: f"wire/{CAMERA}"},
    }
    nodes = {node: {"remap": names} for node, names in remap.items()}
    document = tmp_path / "wired.yaml"
    document.write_text(yaml.safe_dump({"extends": "agibot_g1_dry_run", "nodes": nodes}))
    topics = (
        ("arm_state", JointState, SENSOR_DATA),
        ("corrected_action", CorrectedAction, STEPS),
        ("arm_command", JointState, STEPS),
        (CAMERA, Image, SENSOR_DATA),
    )
    with Wire(topics) as wire:
        graph = start(name=str(document), base=QUIET, ready=False)
        watched = Watched(graph)
        graph.wait_active()
        yield watched, wire


def test_on_a_bad_wire_it_stays_within_every_limit_holds_and_stops(wired):
    robot, wire = wired
    robot.until("holding")
    robot.begin()
    robot.until("tracking")
    wire.lose(0.3)
    robot.graph.spin_for(3.0)
    wire.lose(0.0)
    robot.until("tracking")
    wire.stall(0.2)
    robot.until("holding")
    robot.until("tracking")
    wire.lose(1.0, CAMERA)
    assert robot.until("holding") == "actions have ceased"
    wire.lose(0.0)
    robot.until("tracking")
    assert_within(robot.positions(robot.commands))
    wire.lose(1.0, "arm_state")
    assert "joint states are" in robot.until("stopped")
    wire.lose(0.0)
    robot.release()
    robot.until("tracking")


def test_without_actions_it_holds_and_goes_on_with_them(robot):
    robot.until("holding")
    robot.begin()
    robot.until("tracking")
    killed = robot.graph.send_signal("vla_policy", signal.SIGKILL)
    assert robot.until("holding") == "actions have ceased"
    robot.graph.spin_for(1.0)
    held = robot.positions(robot.commands[-20:])
    assert np.ptp(held, axis=0).max() == 0
    robot.graph.wait_restarted("vla_policy", killed)
    robot.until("tracking")


def test_without_the_robot_it_stops(robot):
    robot.until("holding")
    began = time.monotonic()
    robot.graph.send_signal("agibot_g1_driver", signal.SIGKILL)
    assert any(words in robot.until("stopped") for words in ("joint states are", "has been silent"))
    assert time.monotonic() - began < 10.0
    assert not robot.bridge("reset").success


def test_a_bridge_that_was_killed_begins_anew_where_the_robot_is(robot):
    robot.until("holding")
    robot.begin()
    robot.until("tracking")
    robot.graph.spin_for(1.0)
    killed, said = robot.graph.send_signal("agibot_g1_bridge", signal.SIGKILL), len(robot.states)
    robot.graph.spin_for(0.5)
    sent = len(robot.commands)
    robot.graph.wait_restarted("agibot_g1_bridge", killed)
    robot.graph.spin_until(lambda: robot.states[said:], "the new one says nothing")
    robot.until("tracking")
    first, measured = robot.positions(robot.commands[sent : sent + 1])[0], robot.positions(robot.measured[-200:])
    assert np.abs(measured - first).max(axis=1).min() < 0.005, "the first command is a measured posture"
