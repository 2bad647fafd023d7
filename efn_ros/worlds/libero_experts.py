# SPDX-License-Identifier: MIT
"""Scripted experts for LIBERO's tasks, which decide from the simulator's present state alone.

An expert has no memory, so it can act in any state that another policy has led to. The task's goal predicate gives the
skill; bodies, sites and collision shapes give the positions.
"""

from __future__ import annotations

import numpy as np

from efn_ros.worlds.libero_grasps import PALM_M, Grasp, choose_grasp
from efn_ros.worlds.libero_motion import (
    ALIGNED_M,
    CLEARANCE_M,
    CLOSE,
    FULL_ROTATION_RAD,
    FULL_TRANSLATION_M,
    FUNNEL_SLOPE,
    HAND_RADIUS_M,
    OPEN,
    command,
    frame_of,
    level_frame,
    remaining,
    travel,
)
from efn_ros.worlds.libero_scene import WIDE_M, LiberoScene

STAY, RISE = np.zeros(3), np.array([0.0, 0.0, CLEARANCE_M])
STILL_M_PER_S = 0.02  # speed of a finger under which it has closed on something
EMPTY_M = 0.003  # opening under which the gripper holds no object
REACHED_M = 0.01  # distance from a grasp at which an open gripper closes
CLOSING_M = 0.03  # distance from a grasp up to which a closing gripper goes on closing
PLACED_M = 0.012  # distance from the middle of the place at which the gripper lets go
DROP_M = 0.008  # height from which objects are dropped
DRAWER_OPEN_M = 0.152  # travel of an open drawer
DRAWER_USABLE_M = 0.09  # travel at which objects go in
DRAWER_RELEASED_M = 0.075  # the same, after the hand has pushed the drawer back a little
STANDOFF_M = 0.08  # distance before a handle


class LiberoExpert:
    """The expert of one built LIBERO environment."""

    def __init__(self, scene: LiberoScene) -> None:
        self._scene = scene

    def act(self) -> np.ndarray:
        """Return the action in the present state, float32 (7,).

        Raises:
            NotImplementedError: The task's goal is of another kind.
        """
        self._scene.update()
        predicate, *names = self._scene.goal
        if predicate == "turnon":
            return self._turn_on(names[0])
        if predicate == "open":
            action = self._open(names[0], DRAWER_OPEN_M, DRAWER_OPEN_M)
            return command(self._scene, STAY, None, OPEN) if action is None else action
        if predicate == "in":
            action = self._open(names[1], DRAWER_USABLE_M, DRAWER_RELEASED_M)
            return self._bring(*names) if action is None else action
        if predicate == "on":
            return self._bring(*names)
        raise NotImplementedError(f"no expert for the goal {predicate!r}")

    def landmarks(self) -> np.ndarray:
        """Return the hand, what it is to take first, and where that is to go, (3, 3), metres."""
        scene = self._scene
        predicate, *names = scene.goal
        if predicate == "turnon":
            knob = scene.data.xanchor[scene.fixture_joint(names[0]).id]
            return np.stack([scene.hand, knob, knob])
        if predicate == "open":
            handle = scene.data.geom_xpos[scene.handle(names[0])]
            return np.stack([scene.hand, handle, handle])
        return np.stack([scene.hand, scene.position(names[0]), scene.place(names[1])])

    def _bring(self, name: str, place: str) -> np.ndarray:
        """Pick up an object and put it on or into `place`, an object or a site."""
        scene, spot = self._scene, self._scene.place(place)
        shapes = scene.shapes(name)
        holds = scene.holds(shapes)
        if scene.success:
            return command(scene, STAY if holds else RISE, None, OPEN)
        if not holds:
            return self._fetch(choose_grasp(scene, name, spot))
        low, _ = scene.box(name)
        offset = np.append((spot - scene.position(name))[:2], spot[2] - low[2])
        rests = offset[2] > -DROP_M or scene.touches(shapes, scene.shapes(place))
        if rests and np.linalg.norm(offset[:2]) < PLACED_M:
            return command(scene, STAY, None, OPEN)
        if np.abs(scene.data.qvel[scene.finger_dofs]).max() > STILL_M_PER_S:
            return command(scene, STAY, None, CLOSE)
        goal = scene.hand + offset
        return travel(scene, goal, level_frame(scene, scene.finger_axis, goal), CLOSE, carried=name)

    def _fetch(self, grasp: Grasp) -> np.ndarray:
        """Go to a grasp from above and close."""
        scene = self._scene
        frame, offset = level_frame(scene, grasp.axis, grasp.point), grasp.point - scene.hand
        if self._closes(remaining(scene, offset, frame)):
            return command(scene, offset * (0.0, 0.0, 1.0), frame, CLOSE)
        return travel(scene, grasp.point, frame, OPEN)

    def _open(self, region: str, held_m: float, released_m: float) -> np.ndarray | None:
        """Pull a drawer open by its handle; None once it is open and the hand is free of it.

        Args:
            region: The drawer.
            held_m: Travel at which it counts as open while the hand holds it.
            released_m: The same, when the hand does not hold it.
        """
        scene, joint, handle = self._scene, self._scene.region_joint(region), self._scene.handle(region)
        out = -scene.data.xaxis[joint.id]
        frame = frame_of(np.array([0.0, 0.0, np.sign(scene.finger_axis[2]) or 1.0]), -out)
        offset = scene.hand - scene.data.geom_xpos[handle]
        depth = offset @ out
        across = offset - depth * out
        holds = scene.holds(np.array([handle]))
        if -scene.data.qpos[joint.qposadr[0]] > (held_m if holds else released_m):
            faces = scene.approach @ -out > np.sqrt(0.5)
            if holds or (faces and depth < STANDOFF_M and np.linalg.norm(across) < HAND_RADIUS_M):
                back = scene.shoulder - scene.hand
                return command(scene, STANDOFF_M * (out + back / np.linalg.norm(back)), None, OPEN)
            return None
        if holds:
            return command(scene, out * FULL_TRANSLATION_M - across, frame, CLOSE)
        distance = remaining(scene, across, frame)
        if self._closes(max(distance, abs(depth))):
            return command(scene, -across - depth * out, frame, CLOSE)
        goal = min(STANDOFF_M, FUNNEL_SLOPE * max(distance - ALIGNED_M, 0.0))
        return command(scene, -across + (goal - depth) * out, frame, OPEN)

    def _turn_on(self, stove: str) -> np.ndarray:
        """Grasp the grip of a knob and turn it."""
        scene = self._scene
        if scene.success:
            return command(scene, RISE, None, OPEN)
        joint = scene.fixture_joint(stove)
        shapes = scene.shapes_of_body(joint.bodyid[0])
        tops = scene.boxes(shapes)[1][:, 2]
        grip = shapes[np.argmax(tops)]
        rotation, half = scene.data.geom_xmat[grip].reshape(3, 3), scene.model.geom_aabb[grip][3:]
        level = np.flatnonzero(np.abs(rotation[2]) < np.sqrt(0.5))
        across = rotation[:, level[np.argmin(half[level])]]
        point = np.append(scene.data.xanchor[joint.id][:2], tops.max() - PALM_M)
        if scene.holds(shapes):
            turned = np.cross(scene.data.xaxis[joint.id], across) * np.tan(FULL_ROTATION_RAD) + across
            return command(scene, point - scene.hand, level_frame(scene, turned, point), CLOSE)
        return self._fetch(Grasp(point, across))

    def _closes(self, distance: float) -> bool:
        """Whether the gripper closes at this distance from a grasp."""
        opening = self._scene.opening
        return distance < (REACHED_M if opening > WIDE_M else CLOSING_M) and opening > EMPTY_M
