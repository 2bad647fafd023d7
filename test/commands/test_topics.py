# SPDX-License-Identifier: MIT
"""./efn topics: its lines about topics and actions, and its subscriptions whatever the quality of service."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest
from efn_ros.msg import ActionChunk, CorrectedAction
from harness import own_domain

from efn_ros.commands._watch import Stream, describe, message_class

# One node of a graph: images as a robot sends them, latched actions and episode, diagnostics, and an input from outside
# of its namespace.
PUBLISHER = """
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from efn_ros.msg import ActionChunk, CorrectedAction, EpisodeState
from efn_ros.ros.qos import LATCHED_STEPS, LATCHED, SENSOR_DATA
from sensor_msgs.msg import Image, JointState

rclpy.init()
node = rclpy.create_node("camera_ingest", namespace="efn")
image = node.create_publisher(Image, "camera/left/image", SENSOR_DATA)
action = node.create_publisher(CorrectedAction, "corrected_action", LATCHED_STEPS)
episode = node.create_publisher(EpisodeState, "episode", LATCHED)
diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
node.create_subscription(JointState, "/hal/arm_joint_state", print, SENSOR_DATA)
episode.publish(EpisodeState(episode_id="seven"))
message = CorrectedAction(mode=CorrectedAction.BASE, reason="the bank is empty", recall_s=0.002, rollout_step=-1)
message.corrected = ActionChunk(horizon=2, action_size=2, data=[0.25, -1.0, 0.0, 0.0])
action.publish(message)
active = [KeyValue(key="lifecycle", value="active")]
status = DiagnosticStatus(name="camera_ingest: state", message="active", values=active)

def tick():
    image.publish(Image(height=2, width=2, data=bytes(20_000)))
    diagnostics.publish(DiagnosticArray(status=[status]))

node.create_timer(0.05, tick)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""
COMMAND = [sys.executable, "-m", "efn_ros.commands.main", "topics"]


def test_rate_age_and_size_are_those_of_the_last_seconds():
    stream = Stream("std_msgs/msg/Empty", began_s=100.0)
    assert stream.row(101.0) == ("-", "-", "-")
    stream.add(90.0, b"latched long before")
    assert stream.row(101.0) == ("0.0", "11.0 s", "19 B")
    for i in range(101):
        stream.add(101.0 + i / 10, bytes(123_456))
    assert stream.row(111.0) == ("10.0", "0.0 s", "123 kB")
    assert stream.row(200.0) == ("0.0", "89.0 s", "123 kB")


def test_a_corrected_action_is_described():
    action = CorrectedAction(mode=CorrectedAction.HOLD, reason="action[0][1] is nan", recall_s=math.nan)
    action.context.episode_id, action.context.step, action.context.instruction = "e1", 7, "open the drawer"
    action.corrected = ActionChunk(horizon=2, action_size=2, data=[0.5, -0.25, 9.0, 9.0])
    text = "\n".join(describe(action))
    for part in ("e1, step 7: open the drawer", "holding: action[0][1] is nan", "+0.500  -0.250", "no recall"):
        assert part in text
    assert "9.000" not in text and "recalled in" not in text
    action.rollout_id, action.rollout_step, action.recall_s = "r2", 4, 0.0031
    text = "\n".join(describe(action))
    assert "step 4 of rollout r2" in text and "recalled in 3.1 ms" in text


def test_a_shadow_and_an_exploration_are_described():
    shadow = CorrectedAction(mode=CorrectedAction.SHADOW, proposed=ActionChunk(horizon=1, action_size=1, data=[0.125]))
    text = "\n".join(describe(shadow))
    assert "shadow: base action unchanged" in text and "proposed    +0.125" in text
    exploring = CorrectedAction(mode=CorrectedAction.CORRECTED, exploration="noise")
    assert "base + memory, exploring (noise)" in "\n".join(describe(exploring))


def test_a_message_type_is_found_by_its_name_or_refused():
    assert message_class("efn_ros/msg/CorrectedAction") is CorrectedAction
    for kind in ("genie_msgs_not_here/msg/ArmState", "efn_ros/msg/Nothing", "nonsense"):
        with pytest.raises((ImportError, AttributeError, ValueError)):
            message_class(kind)


@pytest.fixture
def environment(monkeypatch):
    with own_domain() as domain:
        yield {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@pytest.mark.integration
def test_every_topic_of_a_graph_is_listed_until_ctrl_c(environment):
    publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=environment)
    try:
        once = subprocess.run(
            [*COMMAND, "--once", "--seconds", "8"], env=environment, capture_output=True, text=True, timeout=60
        )
        live = subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "/efn/corrected_action" not in live.stdout.readline():
            assert live.poll() is None
        live.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = live.communicate(timeout=10)
    finally:
        publisher.terminate()
        publisher.wait(10)
    assert (live.returncode, errors) == (0, "") and time.monotonic() - began < 3
    assert once.returncode == 0, once.stderr
    rows = {line.split()[0]: line.split() for line in once.stdout.splitlines() if line.startswith("/")}
    assert {"/diagnostics", "/efn/camera/left/image", "/efn/episode", "/hal/arm_joint_state"} <= set(rows)
    assert rows["/efn/camera/left/image"][1] == "sensor_msgs/Image" and rows["/efn/camera/left/image"][-2:] == [
        "20",
        "kB",
    ]
    assert 10 < float(rows["/efn/camera/left/image"][2]) < 25
    assert rows["/efn/episode"][-1] == "B", "the latched episode was not received"
    assert rows["/hal/arm_joint_state"][-3:-1] == ["no", "publisher"]
    assert "/rosout" not in rows
    for part in ("base action unchanged: the bank is empty", "+0.250  -1.000", "camera_ingest  ok     active"):
        assert part in once.stdout


@pytest.mark.integration
def test_without_a_graph_the_command_fails_with_a_message(environment):
    done = subprocess.run([*COMMAND, "--once", "--seconds", "0.5"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"no topic of namespace /efn in ROS domain {environment['ROS_DOMAIN_ID']}" in done.stdout
