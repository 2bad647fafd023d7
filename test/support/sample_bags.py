# SPDX-License-Identifier: MIT
"""Bags in the format of rosbag2, in every storage and compression, with messages that rclpy serialises."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from efn_ros.msg import EpisodeState
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header

from efn_ros.ros import conversions
from efn_ros.ros.fields import to_time
from efn_ros.ros.images import from_rgb
from efn_ros.types import Rollout

MESSAGES = Path(__file__).parents[2] / "msg"
SQLITE3, MCAP = StoragePlugin.SQLITE3, StoragePlugin.MCAP
STORED = [  # storage and compression
    (SQLITE3, CompressionMode.NONE),
    (SQLITE3, CompressionMode.FILE),
    (SQLITE3, CompressionMode.MESSAGE),
    (MCAP, CompressionMode.NONE),
    (MCAP, CompressionMode.FILE),
    (MCAP, CompressionMode.MESSAGE),
    (MCAP, CompressionMode.STORAGE),
]
TOPICS = {
    "ObservationStamped": "observation",
    "PolicyStepStamped": "policy_step",
    "CorrectedAction": "corrected_action",
}
Recorded = Iterable[tuple[str, Any, int]]  # topic, message (or its type and its bytes), time of reception in ns


def typestore():
    """Return the message types of ROS 2 Jazzy and of this package."""
    store, own = get_typestore(Stores.ROS2_JAZZY), {}
    for path in MESSAGES.glob("*.msg"):
        own |= get_types_from_msg(path.read_text(), f"efn_ros/msg/{path.stem}")
    store.register(own)
    return store


def type_of(message: Any) -> str:
    """Return the name of a message's type, such as sensor_msgs/msg/Image."""
    return f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"


def write_bag(path: Path, recorded: Recorded, storage=MCAP, compression=CompressionMode.NONE, store=None) -> Path:
    """Write messages to a bag, in their order, and return its path."""
    writer, connections, store = Writer(path, version=9, storage_plugin=storage), {}, store or typestore()
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, message, received_ns in recorded:
            kind, raw = message if isinstance(message, tuple) else (type_of(message), serialize_message(message))
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], received_ns, raw)
    return path


def of_graph(*rollouts: Rollout, namespace: str = "/efn") -> list[tuple[str, Any]]:
    """Return topics and messages of a graph that runs episodes one after the other."""
    messages = []
    for rollout in rollouts:
        about = {"episode_id": rollout.episode_id, "task": rollout.task, "instruction": rollout.instruction}
        about |= {"seed": rollout.seed, "correct": True, "record": True}
        begun = EpisodeState(stamp=to_time(rollout.start_ns), phase=EpisodeState.RUNNING, **about)
        messages.append((f"{namespace}/episode", begun))
        for step in rollout.steps:
            parts = (
                conversions.observation_to_msg(step.observation, 0),
                conversions.policy_step_to_msg(step.policy_step, 0, 0),
                conversions.correction_to_msg(step.correction, 0.0, 0, 0),
            )
            messages += [(f"{namespace}/{TOPICS[type(part).__name__]}", part) for part in parts]
        ended = {"outcome": int(rollout.outcome), "length": rollout.length, "decisions": len(rollout.steps)}
        for saved in (False, True):
            messages.append(
                (f"{namespace}/episode", EpisodeState(phase=EpisodeState.ENDED, saved=saved, **about, **ended))
            )
    return messages


def at(messages: list[tuple[str, Any]], begin_ns: int = 10**18, apart_ns: int = 10**6) -> list[tuple[str, Any, int]]:
    """Return messages with times of reception, one after the other."""
    return [(topic, message, begin_ns + i * apart_ns) for i, (topic, message) in enumerate(messages)]


def header(stamp_ns: int) -> Header:
    """Return a header."""
    return Header(stamp=to_time(stamp_ns))


def picture(stamp_ns: int, shade: int, size=(6, 8)) -> Image:
    """Return an image of one shade."""
    return from_rgb(np.full((*size, 3), shade, np.uint8), header(stamp_ns))


def joints(stamp_ns: int, *positions: float, names: Iterable[str] = ()) -> JointState:
    """Return joint positions."""
    return JointState(header=header(stamp_ns), name=list(names), position=positions)


def numbers(*values: float) -> Float64MultiArray:
    """Return an array of numbers."""
    return Float64MultiArray(data=values)


def compressed(stamp_ns: int, content: bytes, format_: str = "png") -> CompressedImage:
    """Return a compressed image of some bytes."""
    return CompressedImage(header=header(stamp_ns), format=format_, data=content)
