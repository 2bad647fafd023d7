# SPDX-License-Identifier: MIT
"""LIBERO: a simulated Franka arm in the benchmark of language-conditioned manipulation."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import mujoco
import numpy as np

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.libero_experts import LiberoExpert
from efn_ros.worlds.libero_files import HORIZON, SUITES, configure_libero, find_files, read_initial_states, read_tasks
from efn_ros.worlds.libero_scene import LiberoScene
from efn_ros.worlds.mujoco_tools import get_state, lights_of, render, set_state
from efn_ros.worlds.world import WorldSpec

RATE_HZ = 20
SETTLING_STEPS = 10  # objects fall a little at the beginning of an episode
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # our name -> the simulator's
OBSERVABLE_FIELDS = (
    "_time_since_last_sample",
    "_current_delay",
    "_current_observed_value",
    "_sampled",
)  # that a saved state holds
IDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])  # no motion, gripper open
PROPRIO = (
    *(f"hand_{axis}_m" for axis in "xyz"),
    *(f"hand_axis_angle_{axis}_rad" for axis in "xyz"),
    "finger_left_m",
    "finger_right_m",
)


class LiberoWorld:
    """Tasks of LIBERO in a deployment, named "<suite>/<task file>".

    Actions (7,): translation and axis-angle deltas of the hand, as fractions of full speed, then the gripper (-1 opens,
    1 closes), each in [-1, 1]. Images are those that OpenVLA was trained and evaluated on: upright, with left and right
    exchanged, which is LIBERO's own image rotated by 180 degrees. A seed below the number of initial states that LIBERO
    evaluates with is the index of one of them; any other seed draws a scene from the same distribution.
    """

    def __init__(
        self,
        *,
        deployment: Deployment | None = None,
        image_size: int = 96,
        suites: Sequence[str] = SUITES,
        assets: str | os.PathLike[str] | None = None,
    ) -> None:
        """List the tasks; a task is built when it is first reset.

        Args:
            deployment: Shifts; None: as trained.
            image_size: Height and width of the images, pixels.
            suites: Of tasks.
            assets: Directory of LIBERO's data, see `find_files`.

        Raises:
            ValueError: A suite is unknown.
            FileNotFoundError: No directory is named, or it lacks something.
        """
        self.deployment = deployment or Deployment()
        self._image_size = image_size
        self._files = find_files(assets, suites)
        self._task: str | None = None  # that is built
        tasks = read_tasks(suites, self._files)
        self.spec = WorldSpec(
            name="libero",
            tasks=tasks,
            cameras=tuple(CAMERAS),
            low=np.full(7, -1.0, np.float32),
            high=np.full(7, 1.0, np.float32),
            proprio_names=PROPRIO,
            horizon={task: HORIZON[task.split("/")[0]] for task in tasks},
            rate_hz=float(RATE_HZ),
        )

    def reset(self, task: str, seed: int) -> None:
        """Start a task in the scene of a seed.

        Raises:
            ValueError: The task is unknown.
        """
        if task not in self.spec.tasks:
            raise ValueError(f"LIBERO task {task!r} is unknown; choose one of {', '.join(self.spec.tasks)}")
        if task != self._task:
            self.close()
            self._build(task)
        is_initial_state = seed < len(self._initial_states)
        # Objects on a fixture are placed as if the fixture still had its pose of the compiled model.
        self._model.body_pos[:], self._model.body_quat[:] = self._body_poses
        # Initial states do not hold the fixtures; LIBERO places them with NumPy's global generator.
        with _numpy_seed(0 if is_initial_state else seed):
            self._env.reset()
        if is_initial_state:
            self._env.sim.set_state_from_flattened(self._initial_states[seed])
            self._env.sim.forward()
        for _ in range(SETTLING_STEPS):
            self._state = self._env.step(IDLE)[0]
        self._pending = deque([IDLE] * self.deployment.latency_steps)

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return images and proprioception, as `World.observe`."""
        return self.observe_as(self.deployment)

    def step(self, action: np.ndarray) -> bool:
        """Apply an action (7,), and return whether the task has succeeded."""
        self._pending.append(np.asarray(action, np.float64))
        command = self._pending.popleft()
        applied = np.concatenate([self.deployment.move(command[:3]), command[3:]])
        self._state, _, success, _ = self._env.step(np.clip(applied, -1.0, 1.0))
        return bool(success)

    def close(self) -> None:
        """Release renderer and environment; `reset` builds anew."""
        if self._task is not None:
            atexit.unregister(self.close)
            self._renderer.close()
            self._env.close()
            self._task = None

    # For training data; a policy at work has none of this.

    def observe_as(self, deployment: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return what `observe` would return with the cameras and lights of another deployment."""
        from robosuite.utils.transform_utils import quat2axisangle

        self._apply_cameras(deployment)
        images, data = {}, self._env.sim.data._data
        for name, camera in CAMERAS.items():
            images[name] = np.ascontiguousarray(render(self._renderer, data, camera, self._option)[:, ::-1])
        state = self._state
        axis_angle = quat2axisangle(state["robot0_eef_quat"].copy())  # a copy, because it may write to its argument
        proprio = np.concatenate([state["robot0_eef_pos"], axis_angle, state["robot0_gripper_qpos"]])
        return images, proprio.astype(np.float32)

    def expert(self) -> np.ndarray:
        """Return the scripted expert's action (7,) in the present state; it reads the simulator's state."""
        return self._expert.act()

    def landmarks(self) -> np.ndarray:
        """Return where hand, object and goal are in the images, as `TrainingWorld.landmarks`."""
        data = self._env.sim.data._data
        self._apply_cameras(Deployment())
        points, projected = self._expert.landmarks(), []
        for name in CAMERAS.values():
            camera = self._model.camera(name).id
            x, y, z = data.cam_xmat[camera].reshape(3, 3).T @ (points - data.cam_xpos[camera]).T
            half = -z * np.tan(np.radians(self._model.cam_fovy[camera]) / 2)  # of the image, at the depth of each point
            ahead = np.stack([-x, -y], axis=-1) / np.where(half > 0, half, np.nan)[:, None]  # left and right exchanged
            projected.append(np.where(np.isnan(ahead), np.inf, ahead))
        return np.stack(projected).astype(np.float32)

    def save(self) -> tuple[Any, ...]:
        """Return the state of the simulation, for `restore` within the same episode."""
        env, robot = self._env, self._env.robots[0]
        control = robot.controller.goal_pos, robot.controller.goal_ori, robot.gripper.current_action
        clocks = (
            env.timestep,
            env.cur_time,
            [[getattr(o, k) for k in OBSERVABLE_FIELDS] for o in env._observables.values()],
        )
        state = get_state(self._model, env.sim.data._data)
        return state, [np.copy(part) for part in control], clocks, self._state.copy(), deque(self._pending)

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go back to a saved state."""
        env, robot = self._env, self._env.robots[0]
        state, control, clocks, self._state, pending = saved
        self._pending = deque(pending)
        set_state(self._model, env.sim.data._data, state)
        robot.controller.goal_pos, robot.controller.goal_ori, robot.gripper.current_action = map(np.copy, control)
        env.timestep, env.cur_time, sampled = clocks
        for observable, values in zip(env._observables.values(), sampled, strict=True):
            vars(observable).update(zip(OBSERVABLE_FIELDS, values, strict=True))

    def _build(self, task: str) -> None:
        self._initial_states = read_initial_states(self._files / "init_files" / f"{task}.pruned_init")
        configure_libero(self._files)
        from libero.libero.envs.env_wrapper import ControlEnv

        with _numpy_seed():
            # Without LIBERO's cameras, which take three times as long as ours, and without hard resets, which rebuild.
            self._env = ControlEnv(
                bddl_file_name=str(self._files / "bddl_files" / f"{task}.bddl"),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                hard_reset=False,
                ignore_done=True,  # the caller has its own horizon
                control_freq=RATE_HZ,
            ).env
        self._model = model = self._env.sim.model._model
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self._image_size
        compiled = mujoco.MjModel.from_xml_string(self._env.model.get_xml())
        self._body_poses = compiled.body_pos, compiled.body_quat
        self._lights = [colour.copy() for colour in lights_of(model)]
        camera = model.camera(CAMERAS["agentview"])
        self._camera_pose = camera.pos.copy(), camera.quat.copy()
        self._expert = LiberoExpert(LiberoScene(self._env))
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # collision shapes
        self._renderer = mujoco.Renderer(model, self._image_size, self._image_size)
        atexit.register(self.close)  # after EGL registered its own end with the first renderer, to run before it
        self._task = task

    def _apply_cameras(self, shift: Deployment) -> None:
        """Set cameras and lights as in a deployment."""
        light = shift.light * np.array(shift.tint)
        for colour, nominal in zip(lights_of(self._model), self._lights, strict=True):
            colour[:] = nominal * light
        camera = self._model.camera(CAMERAS["agentview"])
        camera.pos[:], camera.quat[:] = self._camera_pose
        _shift_camera(camera, self._env.workspace_offset[2], shift)
        mujoco.mj_camlight(self._model, self._env.sim.data._data)


def _shift_camera(camera: Any, table_m: float, shift: Deployment) -> None:
    """Move a fixed camera of a model about the point where its axis meets the table, at height `table_m`."""
    position, orientation = camera.pos.copy(), camera.quat.copy()
    frame = np.empty(9)
    mujoco.mju_quat2Mat(frame, orientation)
    right, _, backward = frame.reshape(3, 3).T
    arm = backward * ((position[2] - table_m) / backward[2])  # from that point to the camera
    azimuth, elevation, turn, turned = np.empty(4), np.empty(4), np.empty(4), np.empty(3)
    mujoco.mju_axisAngle2Quat(azimuth, np.array([0.0, 0.0, 1.0]), shift.camera_turn_rad[0])
    mujoco.mju_axisAngle2Quat(elevation, right.copy(), shift.camera_turn_rad[1])
    mujoco.mju_mulQuat(turn, azimuth, elevation)
    mujoco.mju_rotVecQuat(turned, arm, turn)
    camera.pos[:] = position + (shift.zoom * turned - arm) + shift.camera_shift_m
    mujoco.mju_mulQuat(camera.quat, turn, orientation)


@contextlib.contextmanager
def _numpy_seed(seed: int = 0) -> Iterator[None]:
    """Seed NumPy's global generator for a block, and restore its state afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
