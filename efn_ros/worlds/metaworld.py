"""Meta-World: the simulator that a package index carries whole, with a scripted expert for each task."""

from __future__ import annotations

import atexit
import re
from collections import deque

import metaworld.policies
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.world import WorldSpec, lights_of

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
RATE_HZ = 20.0
# Two cameras across the table: either alone leaves depth to be guessed.
CAMERAS = {"left": 150.0, "right": 30.0}  # azimuth, degrees
LOOKAT_M, DISTANCE_M, ELEVATION_DEG = (0.0, 0.66, 0.12), 1.15, -40.0
FIELD_OF_VIEW_DEG = 45.0
# Hidden, because nobody misses them in a small image and they cost half of its rendering: two shoulder links and the
# inside of the gripper's base.
HIDDEN_MESHES = ("l0", "l1", "eGripperBase")
PROPRIO = ("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening")


def project(points: np.ndarray, camera: str) -> np.ndarray:
    """Where points float (..., 3), in metres, appear to a camera of the nominal deployment: (..., 2), x to the right
    and y down, each from -1 to 1 across the image."""
    azimuth, elevation = np.radians(CAMERAS[camera]), np.radians(ELEVATION_DEG)
    level = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    forward = np.cos(elevation) * level + np.array([0.0, 0.0, np.sin(elevation)])
    up = -np.sin(elevation) * level + np.array([0.0, 0.0, np.cos(elevation)])
    seen = points - (np.array(LOOKAT_M) - DISTANCE_M * forward)
    depth = (seen @ forward) * np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
    return np.stack([seen @ np.cross(forward, up) / depth, -(seen @ up) / depth], axis=-1)


class MetaWorld:
    """Tasks of Meta-World in a deployment. Actions: (x, y, z of full speed, gripper effort), each in [-1, 1]."""

    spec = WorldSpec(
        name="metaworld",
        tasks=TASKS,
        cameras=tuple(CAMERAS),
        low=np.full(4, -1.0, np.float32),
        high=np.full(4, 1.0, np.float32),
        proprio_names=PROPRIO,
        horizon=dict.fromkeys(TASKS, HORIZON),
        rate_hz=RATE_HZ,
    )

    def __init__(self, *, deployment: Deployment | None = None, image_size: int = 96) -> None:
        self.deployment = deployment or Deployment()
        self._image_size = image_size
        self._lights: dict[str, list[np.ndarray]] = {}  # task -> as trained
        self._scenes: dict[str, tuple] = {}  # task -> (environment, renderer, expert); building one costs half a second

    def reset(self, task: str, seed: int) -> None:
        if task not in TASKS:
            raise ValueError(f"Meta-World task {task!r} is unknown here; there are {', '.join(TASKS)}")
        if task not in self._scenes:
            self._scenes[task] = self._build(task)
            atexit.register(self.close)  # EGL registers its own end with the first renderer; ours must come before
        self._env, self._renderer, self._expert = self._scenes[task]
        self._task = task
        self._env.seed(seed)
        self._state, _ = self._env.reset()
        # Without this the first image shows the goal of the episode before.
        mujoco.mj_forward(self._env.model, self._env.data)
        self._pending = deque([np.zeros(4, np.float32)] * self.deployment.latency_steps)

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        return self._look(self.deployment)

    def _look(self, shift: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        model, lights = self._env.model, self._lights[self._task]
        for light, nominal in zip(lights_of(model), lights, strict=True):
            light[:] = nominal * shift.light * np.array(shift.tint)
        images = {}
        for name, azimuth in CAMERAS.items():
            camera = mujoco.MjvCamera()
            camera.lookat[:] = np.add(LOOKAT_M, shift.camera_shift_m)
            camera.distance = DISTANCE_M * shift.zoom
            camera.azimuth = azimuth + np.degrees(shift.camera_turn_rad[0])
            camera.elevation = ELEVATION_DEG + np.degrees(shift.camera_turn_rad[1])
            self._renderer.update_scene(self._env.data, camera)
            for flag in ("SHADOW", "REFLECTION", "SKYBOX"):
                self._renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
            images[name] = self._renderer.render()
        return images, self._state[:4].astype(np.float32)

    def step(self, action: np.ndarray) -> bool:
        self._pending.append(np.asarray(action, np.float32))
        command = self._pending.popleft()
        applied = np.append(self.deployment.move(command[:3]), command[3])
        self._env.curr_path_length = 0  # the horizon is the caller's
        self._state, _, _, _, info = self._env.step(np.clip(applied, -1.0, 1.0).astype(np.float32))
        return bool(info["success"])

    def close(self) -> None:
        for _, renderer, _ in self._scenes.values():
            renderer.close()
        self._scenes.clear()
        self._env = self._renderer = self._expert = None
        atexit.unregister(self.close)  # which else would keep this world until the end

    # What demonstrations and lessons are made with; a policy at work never sees any of it.

    def observe_as(self, deployment: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What `observe` would give in another deployment; as trained, these are the eyes of a teacher."""
        return self._look(deployment)

    def expert(self) -> np.ndarray:
        """The scripted expert's action (A,) in the present state; it reads the simulator's own positions."""
        return np.clip(self._expert.get_action(self._state), -1.0, 1.0).astype(np.float32)

    def landmarks(self) -> np.ndarray:
        """As of `TrainingWorld`, in the nominal deployment."""
        points = np.stack([self._state[:3], self._state[4:7], self._state[36:39]])
        return np.stack([project(points, camera) for camera in CAMERAS]).astype(np.float32)

    def save(self) -> tuple:
        """The simulation's state, for `restore` within the same episode."""
        data = self._env.data
        size = mujoco.mj_stateSize(self._env.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        state = np.empty(size)
        mujoco.mj_getState(self._env.model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state, self._state.copy(), self._env._prev_obs.copy(), deque(self._pending)

    def restore(self, saved: tuple) -> None:
        state, self._state, self._env._prev_obs, pending = saved
        self._pending = deque(pending)
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(self._env.model, self._env.data, state, kind)
        mujoco.mj_forward(self._env.model, self._env.data)
        mujoco.mj_setState(self._env.model, self._env.data, state, kind)  # the solver's warm start, which that replaced

    def _build(self, task: str) -> tuple:
        env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        env._set_task_called, env._partially_observable = True, False
        env.__dict__.pop("sawyer_observation_space", None)  # cached with a goal clipped to zero
        env._freeze_rand_vec, env.seeded_rand_vec = False, True
        name = re.sub(r"(^|-)(\w)", lambda m: m[2].upper(), task)
        expert = getattr(metaworld.policies, f"Sawyer{name}V3Policy")()
        model = env.model
        model.vis.quality.offsamples = 0
        for geom in range(model.ngeom):
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
                if model.mesh(model.geom_dataid[geom]).name in HIDDEN_MESHES:
                    model.geom_rgba[geom, 3] = 0.0
        self._lights[task] = [light.copy() for light in lights_of(model)]
        return env, mujoco.Renderer(model, self._image_size, self._image_size), expert
