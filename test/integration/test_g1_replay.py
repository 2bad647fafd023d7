# SPDX-License-Identifier: MIT
"""A recorded dry run of the AgiBot G1 goes through the graph again: what memory adds is computed, nothing commanded."""

from __future__ import annotations

import time

import pytest
from builtin_interfaces.msg import Time
from efn_ros.msg import CorrectedAction, EpisodeState
from efn_ros.srv import EndEpisode
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sample_bags import write_bag
from sensor_msgs.msg import Image, JointState

from efn_ros.ros.qos import LOSSLESS_SENSOR_DATA, SENSOR_DATA, STEPS
from efn_ros.runtime.graph import Graph

pytestmark = [pytest.mark.integration, pytest.mark.simulator]

QUIET = {"**": {"diagnostics_period_s": 0.2}}
TASK, RECORDED_S, TICK_NS = "move", 3.0, 5_000_000
CAMERAS = ("head", "hand_left", "hand_right")
TOPICS = {f"camera/{name}/image": Image for name in CAMERAS} | {"proprioception": JointState}
OF_THE_ROBOT = {f"/efn/camera/{name}/image": f"/camera/{name}_color" for name in CAMERAS}


def record(graph, path):
    """An episode that is remembered, in a bag."""
    said, node = [], graph.client.node
    for topic, kind in TOPICS.items():

        def store(raw, topic=f"/efn/{topic}", kind=f"sensor_msgs/msg/{kind.__name__}"):
            said.append((topic, (kind, raw), time.time_ns()))

        node.create_subscription(kind, topic, store, SENSOR_DATA, raw=True)
    graph.start_episode(TASK, instruction=TASK)
    graph.spin_for(RECORDED_S)
    end = node.create_client(EndEpisode, "end_episode")
    assert graph.client.call(end, EndEpisode.Request(outcome=EpisodeState.OUTCOME_SUCCESS)).success
    graph.spin_until(lambda: graph.client.episode.saved, "it is not remembered")
    return write_bag(path, said)


def play(graph, bag):
    """As `ros2 bag play --clock` does, from a second before its first message, with the episode begun there."""
    node = graph.client.node
    clock = node.create_publisher(Clock, "/clock", 10)
    outs = {
        f"/efn/{topic}": node.create_publisher(kind, OF_THE_ROBOT.get(f"/efn/{topic}", topic), LOSSLESS_SENSOR_DATA)
        for topic, kind in TOPICS.items()
    }
    with Reader(bag) as reader:
        messages = [(stamp, connection.topic, bytes(raw)) for connection, stamp, raw in reader.messages()]
    now_ns = messages[0][0] - 1_000_000_000

    def tick():
        nonlocal now_ns
        now_ns += TICK_NS
        clock.publish(Clock(clock=Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)))

    node.create_timer(TICK_NS * 1e-9, tick)
    graph.wait_active()
    now_ns = messages[0][0] - 1_000_000_000
    graph.spin_for(0.2)
    graph.start_episode(TASK, instruction=TASK, record=False)
    for stamp_ns, topic, raw in messages:
        graph.spin_until(lambda: now_ns >= stamp_ns, "time does not pass")  # noqa: B023
        outs[topic].publish(raw)
    graph.spin_for(0.5)


def test_a_recorded_dry_run_is_replayed_in_shadow(start, tmp_path):
    graph = start(name="agibot_g1_dry_run", base=QUIET)
    graph.spin_for(0.5)
    bag = record(graph, tmp_path / "bag")
    (remembered,) = graph.rollouts()
    graph.bringup.end()

    policy = {"vla_policy": Graph.load("agibot_g1_dry_run").parameters("vla_policy")}
    again = start(policy, name="agibot_g1_replay", base=QUIET, ready=False, use_sim_time=True)
    actions = again.collect(CorrectedAction, "corrected_action", STEPS)
    play(again, bag)
    assert len(actions) > RECORDED_S * 30 / 2
    proposed = [action for action in actions if action.proposed.horizon]
    assert {action.mode for action in proposed} == {CorrectedAction.SHADOW}
    assert {action.rollout_id for action in proposed} == {remembered.record.id}
    assert not any(any(action.residual.data) for action in actions)
    assert any(any(action.proposed.data) for action in proposed)
    node = again.client.node
    assert not any(node.get_publishers_info_by_topic(f"{ns}/arm_command") for ns in ("/efn", "/wbc"))
