# SPDX-License-Identifier: MIT
"""Fields of messages: arrays, stamps and joint positions. Arrays move through the buffer protocol, without lists."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState

_TYPECODES = {np.dtype(dtype): np.dtype(dtype).char for dtype in ("f4", "f8", "i1", "u1", "u4")}


def to_field(values: np.ndarray) -> array.array:
    """Return an array for a sequence field of the same type, flattened row-major."""
    field = array.array(_TYPECODES[values.dtype])
    field.frombytes(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data if values.size else b"")
    return field


def from_field(field: array.array, *shape: int) -> np.ndarray:
    """Return a sequence field as an array that shares its memory.

    Args:
        field: The field.
        *shape: Shape of the array; one entry may be -1, which is inferred. Empty: flat.

    Raises:
        ValueError: The length of the field does not fit the shape.
    """
    values = np.frombuffer(field, dtype=field.typecode) if len(field) else np.empty(0, field.typecode)
    if not shape:
        return values
    known = math.prod(n for n in shape if n != -1)
    left = values.size // known if known else 0
    if values.size != known * (left if -1 in shape else 1):
        raise ValueError(f"a field holds {values.size} numbers, but its shape is {shape}")
    return values.reshape([left if n == -1 else n for n in shape])


def to_time(stamp_ns: int) -> Time:
    """Return a stamp of nanoseconds."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def from_time(stamp: Time) -> int:
    """Return a stamp in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def joint_positions(message: JointState, joints: Sequence[str] = ()) -> tuple[list, np.ndarray]:
    """Return joint positions.

    Args:
        message: Joint states.
        joints: Names of the joints, in the wanted order; empty: all, in the order of the message.

    Returns:
        Names of the joints, or their indices where the message has no names, and positions, float32 (P,).

    Raises:
        ValueError: The message holds no positions, lacks a joint, or a position is not finite; the message names it.
    """
    positions = from_field(message.position)
    if not len(positions):
        raise ValueError("joint_states holds no positions")
    if len(message.name) not in (0, len(positions)):
        raise ValueError(f"joint_states has {len(message.name)} names and {len(positions)} positions")
    names: list = list(message.name) or list(range(len(positions)))
    if joints:
        missing = [joint for joint in joints if joint not in names]
        if missing:
            raise ValueError(f"joint_states lacks {', '.join(missing)}; it has {', '.join(map(str, names))}")
        names, positions = list(joints), positions[[names.index(joint) for joint in joints]]
    if not np.isfinite(positions).all():
        entry = int(np.argmin(np.isfinite(positions)))
        raise ValueError(f"joint_states position {names[entry]!r} is {positions[entry]}")
    return names, positions.astype(np.float32)
