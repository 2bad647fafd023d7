# SPDX-License-Identifier: MIT
"""Where to grasp an object of LIBERO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efn_ros.worlds.libero_motion import DOWN, FINGERTIP_M, REACH_M, REST_AXIS, overreach
from efn_ros.worlds.libero_scene import LiberoScene

PALM_M = 0.021  # from the point between the pads to the palm, less some clearance
MAX_WIDTH_M = 0.065  # of an object that fits between the fingers
MIN_REACH_M = 0.42  # from shoulder to wrist; nearer, the folded arm drifts
INSET_M = 0.008  # a rim is grasped this far inside of its middle, because the outer finger needs less room
ENOUGH_ROOM_M = 0.02  # around a finger; more does not make a grasp better
# Costs against room: of turning the hand, of moving it, of a wrist that is too far or too near, and of a collision.
TURN_COST_M_PER_RAD, MOVE_COST, STRAIN_COST, COLLISION_COST = 0.004, 0.05, 0.3, 5.0
# Balls around a hand and what it passes on its way down: position along the finger axis, height, radius.
HAND_SHAPE_M = (
    *((along, height, 0.014) for along in (-0.054, 0.054) for height in (0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18)),
    *((along, height, 0.03) for along in (-0.07, 0.0, 0.07) for height in (0.06, 0.1, 0.14, 0.18)),
    *((0.0, height, 0.055) for height in (0.2, 0.25)),
)


@dataclass(frozen=True)
class Grasp:
    """Where to close the gripper."""

    point: np.ndarray  # between the finger pads, (3,), metres
    axis: np.ndarray  # finger axis, (3,)


def choose_grasp(scene: LiberoScene, name: str, place: np.ndarray) -> Grasp:
    """Return the best grasp of an object that is to go to a place.

    It is across the whole object where that is narrow enough, else across the rim, on the side with the most room, both
    here and at the place.

    Args:
        scene: The state.
        name: Of the object.
        place: Of the middle of its lower side, (3,).
    """
    shapes = scene.shapes(name)
    low, high = scene.boxes(shapes)
    bottom, top = low[:, 2].min(), high[:, 2].max()
    height = max(top - PALM_M, bottom + FINGERTIP_M)
    level = (low[:, 2] <= height) & (high[:, 2] >= height)
    middle = np.append((low[level].min(0) + high[level].max(0))[:2] / 2, height)
    sides = [np.array([np.sin(angle), -np.cos(angle), 0.0]) for angle in np.arange(8) * np.pi / 4]
    narrow = [side for side in sides[:4] if scene.width(shapes[level], side) < MAX_WIDTH_M]
    if narrow:
        return Grasp(middle, min(narrow, key=_turn_from_rest))
    radius = np.linalg.norm(((low + high)[level] / 2 - middle)[:, :2], axis=1).mean() - INSET_M
    middles = (middle, np.append(place[:2], place[2] + height - bottom))

    def score(side: np.ndarray) -> float:
        room = min(_room(scene, at + radius * side, side, name) for at in middles)
        path = np.linalg.norm((middle + radius * side - scene.hand)[:2])
        excess = [overreach(scene, at + radius * side)[0] for at in middles]
        strain = sum(max(far, MIN_REACH_M - REACH_M - far, 0.0) for far in excess)
        room = min(room, ENOUGH_ROOM_M) * (1.0 if room > 0.0 else COLLISION_COST)
        return room - TURN_COST_M_PER_RAD * _turn_from_rest(side) - MOVE_COST * path - STRAIN_COST * strain

    side = max(sides, key=score)
    return Grasp(middle + radius * side, side)


def _room(scene: LiberoScene, point: np.ndarray, side: np.ndarray, name: str) -> float:
    """Metres between a hand that points down at `point`, one finger to `side`, and the nearest other object."""
    along, height, radius = np.array(HAND_SHAPE_M).T
    balls = point + along[:, None] * side - height[:, None] * DOWN
    return float((scene.distances(balls, name) - radius).min())


def _turn_from_rest(axis: np.ndarray) -> float:
    """Radians between a finger axis, or its reverse, and that of the rest pose."""
    return float(np.arccos(min(1.0, abs(axis @ REST_AXIS) / np.linalg.norm(REST_AXIS))))
