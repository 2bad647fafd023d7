# SPDX-License-Identifier: MIT
"""Recorded messages: CDR to arrays, and messages of the graph to rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float32MultiArray, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

import efn_ros.msg as msg
from efn_ros.bank import RolloutRecorder
from efn_ros.bank.convert.rosbag import TYPE_PREFIX, Bag
from efn_ros.ros import conversions, episodes
from efn_ros.ros.fields import from_field, from_time, joint_positions
from efn_ros.ros.images import to_rgb
from efn_ros.types import Rollout

IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
VECTORS = {
    "sensor_msgs/msg/JointState": JointState,
    "std_msgs/msg/Float32MultiArray": Float32MultiArray,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
}
EPISODE = f"{TYPE_PREFIX}EpisodeState"
PARTS = {
    f"{TYPE_PREFIX}ObservationStamped": (msg.ObservationStamped, conversions.observation_from_msg),
    f"{TYPE_PREFIX}PolicyStepStamped": (msg.PolicyStepStamped, conversions.policy_step_from_msg),
    f"{TYPE_PREFIX}CorrectedAction": (msg.CorrectedAction, conversions.correction_from_msg),
}


def read_image(topic: str, kind: str, raw: bytes) -> tuple[int, tuple, np.ndarray]:
    """Read a camera's message.

    Args:
        topic: Its topic, for errors.
        kind: Its type, one of IMAGES.
        raw: The message as CDR.

    Returns:
        Stamp in nanoseconds, (), and uint8 (height, width, 3) RGB.

    Raises:
        ValueError: The type is another one, or the message cannot be read; the error names the topic.
    """
    return _read(topic, kind, raw, IMAGES, lambda message: (_stamp_ns(message), (), to_rgb(message)))


def read_vector(topic: str, kind: str, raw: bytes, joints: Sequence[str] = ()) -> tuple[int, tuple, np.ndarray]:
    """Read positions of a JointState or of the last point of a JointTrajectory, or the numbers of a MultiArray.

    Args:
        topic: Its topic, for errors.
        kind: Its type, one of VECTORS.
        raw: The message as CDR.
        joints: Joints of a JointState, in order; empty: all.

    Returns:
        Stamp in nanoseconds (0 without a header), names of the entries, and entries, float32 (N,).

    Raises:
        ValueError: The type is another one, or the message cannot be read or is empty; the error names the topic.
    """
    return _read(topic, kind, raw, VECTORS, lambda message: (_stamp_ns(message), *_entries(message, joints)))


def read_rollouts(bag: Bag, robot: str, report: Callable[[str], None]) -> Iterator[Rollout]:
    """Read the recorded episodes of a graph as `bank_writer` writes them.

    Args:
        bag: A recording of the graph.
        robot: Name of the robot.
        report: Is called with a text for every episode that is left out, and for every one that lacks decisions.

    Raises:
        ValueError: A topic of the graph was not recorded, a message cannot be read, or the bag is truncated (before
            the first rollout).
    """
    topics, recorder = [bag.topic_of(kind) for kind in PARTS], RolloutRecorder()
    states = _complete_episodes(bag, topics, report)
    read = (_part(topic, kind, raw) for topic, kind, _, raw in bag.messages(*topics))
    known = (part for part in read if part.context.episode_id in states)
    for episode_id, parts in groupby(known, key=lambda part: part.context.episode_id):
        first, last = states[episode_id]
        episodes.begin(recorder, first, robot)
        for part in parts:
            recorder.add(part)
        rollout, reason = episodes.finish(recorder, last)
        if rollout is None:
            report(f"episode {episode_id} is left out: {reason}")
            continue
        if lacking := max(recorder.incomplete, last.decisions - len(rollout.steps)):
            report(f"episode {episode_id} lacks {lacking} of its decisions")
        yield rollout


def _complete_episodes(
    bag: Bag, parts: Sequence[str], report: Callable[[str], None]
) -> dict[str, tuple[msg.EpisodeState, msg.EpisodeState]]:
    """Return the first and the last state of each episode to import. Reads the whole bag."""
    states: dict[str, list[msg.EpisodeState]] = {}
    for topic, kind, _, raw in bag.messages(bag.topic_of(EPISODE), *parts):
        if kind == EPISODE:
            state = _read(topic, kind, raw, {EPISODE: msg.EpisodeState}, lambda message: message)
            if state.record and state.episode_id:
                states.setdefault(state.episode_id, []).append(state)
    newest = next(reversed(states), "")
    complete = {}
    for episode_id, found in states.items():
        first, last = found[0], found[-1]
        if first.phase != msg.EpisodeState.RUNNING:
            report(f"episode {episode_id} is left out: {episodes.MISSED}")
        elif last.phase == msg.EpisodeState.RUNNING and episode_id == newest:
            report(f"episode {episode_id} is left out: its end was missed")
        else:
            complete[episode_id] = first, last
    return complete


def _part(topic: str, kind: str, raw: bytes) -> Any:
    return _read(topic, kind, raw, {kind: PARTS[kind][0]}, PARTS[kind][1])


def _read(topic: str, kind: str, raw: bytes, kinds: Mapping[str, type], convert: Callable[[Any], Any]) -> Any:
    if kind not in kinds:
        raise ValueError(f"{topic} is of type {kind}; only {', '.join(kinds)} can be read")
    try:
        return convert(deserialize_message(raw, kinds[kind]))
    except (RuntimeError, ValueError) as error:  # RuntimeError: of rclpy, for bytes that are no such message
        raise ValueError(f"{topic} holds a message of {kind} that cannot be read: {error}") from error


def _stamp_ns(message: Any) -> int:
    return from_time(message.header.stamp) if hasattr(message, "header") else 0


def _entries(message: Any, joints: Sequence[str]) -> tuple[tuple, np.ndarray]:
    if isinstance(message, JointState):
        names, values = joint_positions(message, joints)
        return tuple(names), values
    if isinstance(message, JointTrajectory):
        if not message.points:
            raise ValueError("it holds no point")
        names, values = message.joint_names, from_field(list(message.points)[-1].positions)
    else:
        names, values = (), from_field(message.data)
    if not len(values):
        raise ValueError("it holds no numbers")
    return tuple(names) or tuple(range(len(values))), values.astype(np.float32)
