# SPDX-License-Identifier: MIT
"""Meta-World: a simulated Sawyer arm, with a scripted expert for each task."""

from __future__ import annotations

import atexit
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

import metaworld.policies
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies.policy import Policy
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.mujoco_tools import get_state, lights_of, render, set_state
from efn_ros.worlds.world import WorldSpec

TASKS = {
    "reach": "reach the red ball",
    "push": "push the puck to the green ball",
    "pick-place": "pick up the puck and bring it to the blue ball",
    "drawer-open": "open the drawer",
    "drawer-close": "close the drawer",
    "door-open": "open the door of the safe",
    "window-open": "slide the window open",
    "window-close": "slide the window closed",
    "faucet-open": "turn the faucet on",
    "button-press-topdown": "press the button down from above",
    "plate-slide": "slide the plate into the cabinet",
    "coffee-button": "press the button of the coffee machine",
}
HORIZON = 200  # control steps; the slowest of these experts needs 123
# Two cameras across the table: one alone does not show depth.
CAMERAS = {"left": 150.0, "right": 30.0}  # azimuth, degrees
LOOKAT_M, DISTANCE_M, ELEVATION_DEG = (0.0, 0.66, 0.12), 1.15, -40.0
FIELD_OF_VIEW_DEG = 45.0
# Two shoulder links and the inside of the gripper's base. They are hidden, because they hardly show in a small image
# and take half of the time to render it.
HIDDEN_MESHES = ("l0", "l1", "eGripperBase")


@dataclass
class _Simulation:
    """A built task; building one takes half a second."""

    env: SawyerXYZEnv  # of one task
    renderer: mujoco.Renderer  # of its cameras
    expert: Policy  # scripted policy of the task
    lights: list[np.ndarray]  # colours as trained, as of `lights_of`


class MetaWorld:
    """Tasks of Meta-World in a deployment. Actions: (x, y, z of full speed, gripper effort), each in [-1, 1]."""

    spec = WorldSpec(
        name="metaworld",
        tasks=TASKS,
        cameras=tuple(CAMERAS),
        low=np.full(4, -1.0, np.float32),
        high=np.full(4, 1.0, np.float32),
        proprio_names=("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening"),
        horizon=dict.fromkeys(TASKS, HORIZON),
        rate_hz=20.0,
    )

    def __init__(self, *, deployment: Deployment | None = None, image_size: int = 96) -> None:
        """Build nothing yet; a task is built when it is first reset.

        Args:
            deployment: Shifts; None: as trained.
            image_size: Height and width of the images, pixels.
        """
        self.deployment = deployment or Deployment()
        self._image_size = image_size
        self._simulations: dict[str, _Simulation] = {}  # by task
        self._now: _Simulation  # of the present task, from the first `reset` on

    def reset(self, task: str, seed: int) -> None:
        """Start a task in the scene that a seed draws.

        Raises:
            ValueError: The task is unknown.
        """
        if task not in TASKS:
            raise ValueError(f"Meta-World task {task!r} is unknown; choose one of {', '.join(TASKS)}")
        if task not in self._simulations:
            self._simulations[task] = _build(task, self._image_size)
            atexit.register(self.close)  # after EGL registered its own end with the first renderer, to run before it
        self._now = self._simulations[task]
        env = self._now.env
        env.seed(seed)
        self._state, _ = env.reset()
        mujoco.mj_forward(env.model, env.data)  # or the first image shows the goal of the previous episode
        self._pending = deque([np.zeros(4, np.float32)] * self.deployment.latency_steps)

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return images and proprioception, as `World.observe`."""
        return self.observe_as(self.deployment)

    def step(self, action: np.ndarray) -> bool:
        """Apply an action (4,), and return whether the task has succeeded."""
        self._pending.append(np.asarray(action, np.float32))
        command = self._pending.popleft()
        applied = np.append(self.deployment.move(command[:3]), command[3])
        self._now.env.curr_path_length = 0  # the caller has its own horizon
        self._state, _, _, _, info = self._now.env.step(np.clip(applied, -1.0, 1.0).astype(np.float32))
        return bool(info["success"])

    def close(self) -> None:
        """Release all renderers; `reset` builds anew."""
        for simulation in self._simulations.values():
            simulation.renderer.close()
        self._simulations.clear()
        atexit.unregister(self.close)  # it would keep this world alive

    # For training data; a policy at work has none of this.

    def observe_as(self, deployment: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return what `observe` would return with the cameras and lights of another deployment."""
        env, images = self._now.env, {}
        for light, nominal in zip(lights_of(env.model), self._now.lights, strict=True):
            light[:] = nominal * deployment.light * np.array(deployment.tint)
        for name, azimuth in CAMERAS.items():
            camera = mujoco.MjvCamera()
            camera.lookat[:] = np.add(LOOKAT_M, deployment.camera_shift_m)
            camera.distance = DISTANCE_M * deployment.zoom
            camera.azimuth = azimuth + np.degrees(deployment.camera_turn_rad[0])
            camera.elevation = ELEVATION_DEG + np.degrees(deployment.camera_turn_rad[1])
            images[name] = render(self._now.renderer, env.data, camera)
        return images, self._state[:4].astype(np.float32)

    def expert(self) -> np.ndarray:
        """Return the scripted expert's action (4,) in the present state; it reads the simulator's state."""
        return np.clip(self._now.expert.get_action(self._state), -1.0, 1.0).astype(np.float32)

    def landmarks(self) -> np.ndarray:
        """Return where hand, object and goal are in the images, as `TrainingWorld.landmarks`."""
        points = np.stack([self._state[:3], self._state[4:7], self._state[36:39]])
        return np.stack([project(points, camera) for camera in CAMERAS]).astype(np.float32)

    def save(self) -> tuple[Any, ...]:
        """Return the state of the simulation, for `restore` within the same episode."""
        env = self._now.env
        return get_state(env.model, env.data), self._state.copy(), env._prev_obs.copy(), deque(self._pending)

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go back to a saved state."""
        env = self._now.env
        state, self._state, env._prev_obs, pending = saved
        self._pending = deque(pending)
        set_state(env.model, env.data, state)


def project(points: np.ndarray, camera: str) -> np.ndarray:
    """Project points into the image of a nominal camera.

    Args:
        points: (..., 3), metres.
        camera: One of CAMERAS.

    Returns:
        (..., 2): x to the right and y down, each from -1 to 1 across the image.
    """
    azimuth, elevation = np.radians(CAMERAS[camera]), np.radians(ELEVATION_DEG)
    level = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    forward = np.cos(elevation) * level + np.array([0.0, 0.0, np.sin(elevation)])
    up = -np.sin(elevation) * level + np.array([0.0, 0.0, np.cos(elevation)])
    offset = points - (np.array(LOOKAT_M) - DISTANCE_M * forward)
    depth = (offset @ forward) * np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
    return np.stack([offset @ np.cross(forward, up) / depth, -(offset @ up) / depth], axis=-1)


def _build(task: str, image_size: int) -> _Simulation:
    env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    env._set_task_called, env._partially_observable = True, False
    env.__dict__.pop("sawyer_observation_space", None)  # cached with a goal clipped to zero
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    name = re.sub(r"(^|-)(\w)", lambda m: m[2].upper(), task)
    expert = getattr(metaworld.policies, f"Sawyer{name}V3Policy")()
    model = env.model
    model.vis.quality.offsamples = 0
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        if model.mesh(model.geom_dataid[geom]).name in HIDDEN_MESHES:
            model.geom_rgba[geom, 3] = 0.0
    lights = [light.copy() for light in lights_of(model)]
    return _Simulation(env, mujoco.Renderer(model, image_size, image_size), expert, lights)
