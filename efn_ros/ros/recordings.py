"""What recorded messages say: CDR to arrays, and the graph's own to rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float32MultiArray, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from efn_ros import msg
from efn_ros.bank import RolloutRecorder
from efn_ros.bank.convert.rosbag import OWN, Bag
from efn_ros.ros import conversions, episodes
from efn_ros.ros.images import to_rgb
from efn_ros.types import Rollout

IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
VECTORS = {
    "sensor_msgs/msg/JointState": JointState,
    "std_msgs/msg/Float32MultiArray": Float32MultiArray,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
}
EPISODE = f"{OWN}EpisodeState"
PARTS = {
    f"{OWN}ObservationStamped": (msg.ObservationStamped, conversions.observation_from_msg),
    f"{OWN}PolicyStepStamped": (msg.PolicyStepStamped, conversions.policy_step_from_msg),
    f"{OWN}CorrectedAction": (msg.CorrectedAction, conversions.correction_from_msg),
}


def image(topic: str, kind: str, raw: bytes) -> tuple[int, tuple, np.ndarray]:
    """Stamp in nanoseconds, (), and uint8 (height, width, 3) RGB of a camera's message.

    Raises ValueError, naming the topic, for a type that is not in IMAGES, what is no such message, and as `to_rgb`.
    """
    return _read(topic, kind, raw, IMAGES, lambda message: (_stamp_ns(message), (), to_rgb(message)))


def vector(topic: str, kind: str, raw: bytes, joints: Sequence[str] = ()) -> tuple[int, tuple, np.ndarray]:
    """Stamp in nanoseconds (0 without a header), names of the entries, and entries, float32 (N,), of a message.

    Positions of a JointState, of the named `joints` or all; of the last point of a JointTrajectory; or the numbers of a
    MultiArray. Raises ValueError, naming the topic, for a type that is not in VECTORS, and for what is no such message
    or holds none of these.
    """
    return _read(topic, kind, raw, VECTORS, lambda message: (_stamp_ns(message), *_entries(message, joints)))


def rollouts(bag: Bag, robot: str, tell: Callable[[str], None]) -> Iterator[Rollout]:
    """The episodes of a recorded graph that were to be remembered, as `bank_writer` writes them.

    tell: is told of every episode that is left out, and why, and of those that lack decisions. Raises ValueError,
    naming it, for a topic of the graph that was not recorded and for what is no message of it, and before the first
    rollout for a bag that is cut short.
    """
    topics, recorder = [bag.topic_of(kind) for kind in PARTS], RolloutRecorder()
    begun = _begun(bag, topics, tell)
    read = (_part(topic, kind, raw) for topic, kind, _, raw in bag.messages(*topics))
    known = (part for part in read if part.context.episode_id in begun)
    for episode_id, parts in groupby(known, key=lambda part: part.context.episode_id):
        first, last = begun[episode_id]
        episodes.begin(recorder, first, robot)
        for part in parts:
            recorder.add(part)
        rollout, reason = episodes.finish(recorder, last)
        if rollout is None:
            tell(f"episode {episode_id} is left out: {reason}")
            continue
        if lacking := max(recorder.incomplete, last.decisions - len(rollout.steps)):
            tell(f"episode {episode_id} lacks {lacking} of its decisions")
        yield rollout


def _begun(
    bag: Bag, parts: Sequence[str], tell: Callable[[str], None]
) -> dict[str, tuple[msg.EpisodeState, msg.EpisodeState]]:
    """The first and the last that was said of each episode to be remembered. Reads all of the bag."""
    said: dict[str, list[msg.EpisodeState]] = {}
    for topic, kind, _, raw in bag.messages(bag.topic_of(EPISODE), *parts):
        if kind == EPISODE:
            state = _read(topic, kind, raw, {EPISODE: msg.EpisodeState}, lambda message: message)
            if state.record and state.episode_id:
                said.setdefault(state.episode_id, []).append(state)
    newest = next(reversed(said), "")
    begun = {}
    for episode_id, states in said.items():
        if states[0].phase != msg.EpisodeState.RUNNING:
            tell(f"episode {episode_id} is left out: {episodes.MISSED}")
        elif states[-1].phase == msg.EpisodeState.RUNNING and episode_id == newest:
            tell(f"episode {episode_id} is left out: its end was missed")
        else:
            begun[episode_id] = states[0], states[-1]
    return begun


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
    return conversions.from_time(message.header.stamp) if hasattr(message, "header") else 0


def _entries(message: Any, joints: Sequence[str]) -> tuple[tuple, np.ndarray]:
    if isinstance(message, JointState):
        names, values = conversions.positions_from_msg(message, joints)
        return tuple(names), values
    if isinstance(message, JointTrajectory):
        if not message.points:
            raise ValueError("it holds no point")
        names, values = message.joint_names, conversions.from_field(message.points[-1].positions)
    else:
        names, values = (), conversions.from_field(message.data)
    if not len(values):
        raise ValueError("it holds no numbers")
    return tuple(names) or tuple(range(len(values))), values.astype(np.float32)
