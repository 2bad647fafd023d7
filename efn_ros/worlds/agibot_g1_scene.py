# SPDX-License-Identifier: MIT
"""Body and surroundings of the simulated G1 in MuJoCo: contacts, and the images of its three cameras.

The arms are put into postures, not driven; bodies have no weight, and the block cannot be grasped. The kinematics are
those of the URDF; fingers, table, block and the poses of the cameras are assumed.
"""

from __future__ import annotations

import atexit
import math

import mujoco
import numpy as np

from efn_ros.robots.agibot_g1 import JOINTS, URDF
from efn_ros.worlds.mujoco_tools import render

# In the start posture the cameras of the wrists are above the palms and point down along the fingers.
HEAD_TILT_RAD, HAND_TILT_RAD = 0.65, 0.35
HEAD_M, HAND_M = (0.02, 0.0, 0.0), (0.08, 0.0, 0.04)  # in the frames of their links; HAND_M has x mirrored on the left
SIN, COS = math.sin(HAND_TILT_RAD), math.cos(HAND_TILT_RAD)
CAMERAS = {  # link, position, axes to the right and up, vertical field of view of the camera's data sheet in degrees
    "head": (
        "head_link2",
        HEAD_M,
        (0.0, 0.0, -1.0, math.sin(HEAD_TILT_RAD), -math.cos(HEAD_TILT_RAD), 0.0),
        65.0,
    ),
    "hand_left": ("gripper_l_base_link", (-HAND_M[0], *HAND_M[1:]), (0.0, -1.0, 0.0, -COS, 0.0, SIN), 58.0),
    "hand_right": ("gripper_r_base_link", HAND_M, (0.0, 1.0, 0.0, COS, 0.0, SIN), 58.0),
}
GRIPPERS = ("gripper_l", "gripper_r")
STROKE_MM = 120.0  # from open to closed
PALM_M, FINGERTIP_M = 0.0739, 0.155  # along the gripper: where the fingers begin and end
FINGER_M = (0.01, 0.006, (FINGERTIP_M - PALM_M) / 2)  # half sizes of a finger
TABLE_M = ((0.7, 0.0, 0.36), (0.35, 0.6, 0.36))  # centre and half sizes
BLOCK_M = ((0.6, 0.0, 0.745), (0.025, 0.025, 0.025))
LEFT, RIGHT, TRUNK, SURROUNDINGS = 1, 2, 4, 8  # owner of a shape
AMBIENT = (0.3, 0.3, 0.3)
TOUCHES = {LEFT: RIGHT | TRUNK | SURROUNDINGS, RIGHT: LEFT | TRUNK | SURROUNDINGS}


class G1Scene:
    """One robot at a table. Not thread-safe; all images must be rendered in one thread.

    Attributes:
        links: Names of the robot's links.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        """Compile the model.

        Args:
            image_size: Height and width of the images, pixels.
        """
        self._size = image_size
        spec = _robot()
        self.links = frozenset(body.name for body in spec.bodies[1:])  # the first is the world
        _add_surroundings(spec.worldbody)
        spec.visual.headlight.ambient, spec.visual.quality.offsamples = AMBIENT, 0
        spec.visual.global_.offheight, spec.visual.global_.offwidth = image_size
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._arms = [self._model.joint(name).qposadr[0] for name in JOINTS]
        self._fingers = [[self._model.joint(f"{name}_finger{i}").qposadr[0] for i in (1, 2)] for name in GRIPPERS]
        self._renderer: mujoco.Renderer | None = None

    def pose(self, arms: np.ndarray, grippers_mm: np.ndarray) -> frozenset[tuple[str, str]]:
        """Put the robot into a posture, and return the pairs of links and objects that touch, each sorted.

        An arm can touch the other arm, the trunk, the table and the floor, but not its own links or the block.

        Args:
            arms: (14,), rad.
            grippers_mm: (2,), by which they are closed.
        """
        self._data.qpos[self._arms] = arms
        self._data.qpos[self._fingers] = ((STROKE_MM - grippers_mm) / 2000)[:, None]
        mujoco.mj_fwdPosition(self._model, self._data)
        bodies = self._model.geom_bodyid[self._data.contact.geom]
        names = (sorted(self._model.body(body).name for body in pair) for pair in bodies)
        return frozenset((first, second) for first, second in names)

    def images(self) -> dict[str, np.ndarray]:
        """Return name of each of CAMERAS -> image uint8 (height, width, 3) RGB, of the last posture."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, *self._size)
            atexit.register(self.close)  # after EGL registered its own end with the first renderer, to run before it
        return {name: render(self._renderer, self._data, name) for name in CAMERAS}

    def close(self) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            atexit.unregister(self.close)  # it would keep this scene alive


def owner(link: str) -> int:
    """Return which part of the robot a link belongs to: LEFT, RIGHT or TRUNK."""
    for prefix, side in (("arm_left", LEFT), ("gripper_l", LEFT), ("arm_right", RIGHT), ("gripper_r", RIGHT)):
        if link.startswith(prefix):
            return side
    return TRUNK


def _robot() -> mujoco.MjSpec:
    """The links of the URDF with fingers and cameras."""
    spec = mujoco.MjSpec.from_file(str(URDF))
    spec.compiler.fusestatic = False  # which would drop the names of fixed links
    spec.compiler.discardvisual = False  # which would drop the block, because it collides with nothing
    for name in GRIPPERS:
        _add_fingers(spec.body(f"{name}_base_link"), name)
    for body in spec.bodies:
        for geom in body.geoms:
            geom.contype = owner(body.name)
            geom.conaffinity = TOUCHES.get(geom.contype, 0)
    for name, (link, position, axes, field) in CAMERAS.items():
        camera = spec.body(link).add_camera(name=name, pos=position, fovy=field)
        camera.alt.type, camera.alt.xyaxes = mujoco.mjtOrientation.mjORIENTATION_XYAXES, axes
    return spec


def _add_fingers(palm: mujoco.MjsBody, name: str) -> None:
    """Two fingers that slide apart along the palm's y, half the opening each."""
    for number, side in ((1, 1.0), (2, -1.0)):
        position = (0.0, side * FINGER_M[1], (PALM_M + FINGERTIP_M) / 2)
        finger = palm.add_body(name=f"{name}_finger{number}", pos=position)
        finger.add_joint(name=finger.name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0.0, side, 0.0))
        _add_box(finger, FINGER_M, (0.35, 0.36, 0.4, 1.0))


def _add_box(body: mujoco.MjsBody, size: tuple[float, ...], colour: tuple[float, ...], contype: int = 0) -> None:
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=size, rgba=colour, contype=contype, conaffinity=0)


def _add_surroundings(world: mujoco.MjsBody) -> None:
    floor = {"type": mujoco.mjtGeom.mjGEOM_PLANE, "size": (5, 5, 0.1), "rgba": (0.55, 0.56, 0.6, 1.0)}
    world.add_body(name="floor").add_geom(**floor, contype=SURROUNDINGS, conaffinity=0)
    _add_box(world.add_body(name="table", pos=TABLE_M[0]), TABLE_M[1], (0.75, 0.65, 0.5, 1.0), SURROUNDINGS)
    _add_box(world.add_body(name="block", pos=BLOCK_M[0]), BLOCK_M[1], (0.85, 0.1, 0.1, 1.0))
    world.add_light(pos=(0.5, 0.5, 3.0), dir=(0.0, -0.2, -1.0), directional=True)
