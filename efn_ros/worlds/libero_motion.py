# SPDX-License-Identifier: MIT
"""Actions that move the hand of LIBERO's arm: towards a goal, over obstacles, with the hand level."""

from __future__ import annotations

import mujoco
import numpy as np

from efn_ros.worlds.libero_scene import LiberoScene

OPEN, CLOSE = -1.0, 1.0  # actions of the gripper
FULL_TRANSLATION_M, FULL_ROTATION_RAD = 0.05, 0.5  # how far ahead a full action puts the controller's goal
GAIN = 2.0  # of the controller's goal over what remains: the controller lags, and does not overshoot at this gain
DOWN = np.array([0.0, 0.0, -1.0])
REST_AXIS = np.array([0.17, -0.98, 0.0])  # finger axis of the rest pose, turned a little so that no quarter turn ties
WRIST_BACK_M, WRIST_UP_M = 0.088, 0.203  # from the gripper of a hand that points down to the arm's last joint but one
REACH_M = 0.62  # from shoulder to wrist; beyond, the arm straightens into its joint limit, so the hand leans instead
MAX_LEAN_RAD = 0.6
FINGERTIP_M = 0.013  # from the point between the pads to the ends of the fingers
HAND_RADIUS_M = 0.06
CLEARANCE_M = 0.02  # between what moves and what it passes over
ALIGNED_M = 0.006  # horizontal distance at which the hand goes all the way down
FUNNEL_SLOPE = 4.0  # metres that the hand stays higher for each metre of distance
RISE_M = 0.04  # a hand that is lower than it should be by this only rises
TURN_M_PER_RAD = 0.04  # distance that a remaining angle counts as


def frame_of(axis: np.ndarray, approach: np.ndarray) -> np.ndarray:
    """Return the frame (3, 3) of a hand with this finger axis and approach."""
    return np.column_stack([axis, np.cross(approach, axis), approach])


def rotation_to(scene: LiberoScene, frame: np.ndarray) -> np.ndarray:
    """Return the rotation vector (3,), in radians and the world's frame, from the hand's present frame to another."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, (frame @ frame_of(scene.finger_axis, scene.approach).T).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def remaining(scene: LiberoScene, offset: np.ndarray, frame: np.ndarray) -> float:
    """Return the distance, in metres, that an offset and the rotation to a frame count as together."""
    return np.linalg.norm(offset) + TURN_M_PER_RAD * np.linalg.norm(rotation_to(scene, frame))


def command(scene: LiberoScene, offset: np.ndarray, frame: np.ndarray | None, gripper: float) -> np.ndarray:
    """Return the action (7,) that moves the hand by an offset (3,) and into a frame, as far as one step goes."""
    translation = GAIN * offset / FULL_TRANSLATION_M
    rotation = np.zeros(3) if frame is None else GAIN * rotation_to(scene, frame) / FULL_ROTATION_RAD
    parts = (part / max(1.0, np.abs(part).max()) for part in (translation, rotation))
    return np.concatenate([*parts, [gripper]]).astype(np.float32)


def travel(
    scene: LiberoScene, goal: np.ndarray, frame: np.ndarray, gripper: float, carried: str | None = None
) -> np.ndarray:
    """Return the action (7,) towards a goal of the hand: up over obstacles, across, and down at the end.

    Args:
        scene: The state.
        goal: (3,).
        frame: Of the hand.
        gripper: Action of the gripper.
        carried: Name of the object in the hand.
    """
    offset, below, radius, start = goal - scene.hand, FINGERTIP_M, HAND_RADIUS_M, scene.hand
    if carried:
        low, high = scene.box(carried)
        below, radius, start = max(below, scene.hand[2] - low[2]), max((high - low)[:2]) / 2, (low + high) / 2
    obstacle = scene.highest_along(start[:2], (start + offset)[:2], radius + CLEARANCE_M / 2, carried)
    clear = obstacle + below + CLEARANCE_M
    distance = remaining(scene, offset[:2], frame)
    height = goal[2] + np.clip(FUNNEL_SLOPE * (distance - ALIGNED_M), 0.0, max(clear - goal[2], 0.0))
    offset[2] = height - scene.hand[2]
    offset[:2] *= np.clip(1.0 - (offset[2] - CLEARANCE_M / 2) / RISE_M, 0.0, 1.0)
    return command(scene, offset, frame, gripper)


def level_frame(scene: LiberoScene, axis: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the frame of a hand that moves to a goal (3,) with its finger axis level, along `axis` or its reverse.

    The hand points down. Where the goal is far, it leans outwards about its finger axis.
    """
    axis = np.array([axis[0], axis[1], 0.0]) / np.linalg.norm(axis[:2])
    excess, outwards = max((overreach(scene, point) for point in (scene.hand, goal)), key=lambda found: found[0])
    lean = np.tan(np.clip(excess / WRIST_UP_M, 0.0, MAX_LEAN_RAD)) * (outwards - outwards @ axis * axis)
    return frame_of(axis if axis @ REST_AXIS > 0 else -axis, (DOWN + lean) / np.linalg.norm(DOWN + lean))


def overreach(scene: LiberoScene, point: np.ndarray) -> tuple[float, np.ndarray]:
    """Return by how much a hand that points down at a point (3,) is too far from the shoulder, and the way outwards.

    Returns:
        Metres beyond REACH_M, negative within it; and a level unit vector (3,).
    """
    away = point - scene.shoulder
    outwards = np.append(away[:2], 0.0) / np.linalg.norm(away[:2])
    return float(np.linalg.norm(away - WRIST_BACK_M * outwards - WRIST_UP_M * DOWN)) - REACH_M, outwards
