# SPDX-License-Identifier: MIT
"""Errors in the callbacks of one node: what it reports of them, and what a bridge does after one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import JointState

from efn_ros.commands._reference import node_class
from efn_ros.robots.bridge import Health, State
from efn_ros.ros.arm_bridge import ArmBridge
from efn_ros.ros.node import EfnNode

pytestmark = pytest.mark.integration

LIMITS = ("velocity", "acceleration", "jerk", "tracking", "reject")
ARM = {"joints.names": "[a]", "joints.low": "[-1.0]", "joints.high": "[1.0]", "timeouts.state_s": "5.0"}


@pytest.fixture
def configured() -> Iterator[Callable[..., EfnNode]]:
    """configured(executable, {name: value}): the node, configured in this process."""
    made = []

    def configured(executable: str, parameters: dict[str, str] | None = None) -> EfnNode:
        words = [word for name, value in (parameters or {}).items() for word in ("-p", f"{name}:={value}")]
        rclpy.init(args=["--ros-args", *words])
        made.append(node_class(executable)(executable))
        assert made[0].trigger_configure() == TransitionCallbackReturn.SUCCESS
        return made[0]

    yield configured
    for node in made:
        node.release()
        node.destroy_node()
    rclpy.try_shutdown()


def fail(*arguments: object) -> None:
    raise RuntimeError("no such thing")


def test_a_fault_is_logged_with_its_traceback_but_not_at_the_rate_of_the_messages(configured, capfd):
    node = configured("episode_manager")
    for _ in range(3):
        node.guard(fail)("message")
    assert node.diagnostics.counts["errors"] == 3
    logged = capfd.readouterr()
    assert (logged.out + logged.err).count("Traceback") == 1


def test_a_callback_that_a_signal_interrupts_is_no_fault(configured, capfd):
    node = configured("episode_manager")
    rclpy.try_shutdown()
    node.guard(node.start)()  # it publishes
    assert not node.diagnostics.counts["errors"] and not "".join(capfd.readouterr())


def test_the_errors_of_what_a_bridge_receives_name_the_topic_on_the_diagnostics(configured):
    node = configured("trajectory_bridge", ARM | {f"joints.{name}": "[1.0]" for name in LIMITS})
    (received,) = (each.callback for each in node.subscriptions if each.topic_name.endswith("/arm_state"))
    received(JointState())
    status = {part.name: part for part in node.diagnostics.message(node.get_clock().now().to_msg(), "").status}
    assert status["trajectory_bridge: errors"].message == "arm_state: joint_states holds no positions"


def test_a_bridge_that_cannot_send_stops_and_halts_the_robot(configured, monkeypatch):
    node = configured("trajectory_bridge", ARM | {f"joints.{name}": "[1.0]" for name in LIMITS})
    assert isinstance(node, ArmBridge)
    began_s, halted = time.monotonic() - 0.2, []
    for i in range(20):
        at_s = began_s + 0.01 * i
        node.bridge.update_joint_states([0.0], round(at_s * 1e9), at_s)
    node.bridge.health = Health()
    node.bridge.start(time.monotonic())
    monkeypatch.setattr(node, "send", fail)
    monkeypatch.setattr(node, "halt", halted.append)
    node._tick()
    assert node.bridge.state == State.STOPPED
    assert halted == ["RuntimeError: no such thing"] == [node.bridge.reason]
