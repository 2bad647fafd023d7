"""LIBERO: the benchmark of language-conditioned manipulation, with a Franka arm.

The package index carries its code only; task files, initial states, meshes and textures come from a directory of
the user's: bddl_files/<suite>/*.bddl, init_files/<suite>/*.pruned_init and assets/.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import mujoco
import numpy as np
import torch
import yaml

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.libero_experts import LiberoExpert
from efn_ros.worlds.world import WorldSpec, lights_of

SUITES = ("libero_goal", "libero_spatial")
HORIZON = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}  # control steps
RATE_HZ = 20.0
SETTLING_STEPS = 10  # the initial states let objects fall a little
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # our name to the simulator's
STATE = mujoco.mjtState.mjSTATE_INTEGRATION
SAMPLED = ("_time_since_last_sample", "_current_delay", "_current_observed_value", "_sampled")  # of an observable
IDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])  # stay, gripper open
PROPRIO = (
    *(f"hand_{axis}_m" for axis in "xyz"),
    *(f"hand_axis_angle_{axis}_rad" for axis in "xyz"),
    "finger_left_m",
    "finger_right_m",
)


class LiberoWorld:
    """Tasks of LIBERO in a deployment, called "<suite>/<task file>".

    Actions (7,): translation and axis-angle deltas of the hand, as fractions of full speed, then the gripper (-1 opens,
    1 closes), each in [-1, 1]. Images are those that OpenVLA was trained and evaluated on, which LIBERO's own are once
    rotated by 180 degrees: upright, and left and right exchanged. A seed below their number is the index of one of the
    initial states that LIBERO evaluates with; any other draws a scene anew, from where LIBERO drew those.
    """

    def __init__(
        self,
        *,
        deployment: Deployment | None = None,
        image_size: int = 96,
        suites: Sequence[str] = SUITES,
        assets: str | os.PathLike | None = None,
    ) -> None:
        """assets: directory with bddl_files, init_files and assets; else EFN_LIBERO_DIR, else EFN_TEST_DATA/libero.

        Raises ValueError for an unknown suite and FileNotFoundError where the directory lacks something.
        """
        self.deployment = deployment or Deployment()
        self._image_size = image_size
        self._files = find_files(assets, suites)
        self._task: str | None = None
        tasks = self.tasks(suites, self._files)
        self.spec = WorldSpec(
            name="libero",
            tasks=tasks,
            cameras=tuple(CAMERAS),
            low=np.full(7, -1.0, np.float32),
            high=np.full(7, 1.0, np.float32),
            proprio_names=PROPRIO,
            horizon={task: HORIZON[task.split("/")[0]] for task in tasks},
            rate_hz=RATE_HZ,
        )

    @staticmethod
    def tasks(suites: Sequence[str] = SUITES, assets: str | os.PathLike | None = None) -> dict[str, str]:
        """Task name to instruction, read without the simulator. Raises as the constructor does."""
        files = find_files(assets, suites) / "bddl_files"
        paths = [path for suite in suites for path in sorted((files / suite).glob("*.bddl"))]
        return {f"{path.parent.name}/{path.stem}": instruction_of(path) for path in paths}

    def reset(self, task: str, seed: int) -> None:
        if task not in self.spec.tasks:
            raise ValueError(f"LIBERO task {task!r} is unknown here; there are {', '.join(self.spec.tasks)}")
        if task != self._task:
            self.close()
            self._build(task)
        # Fixtures are no part of the initial states: LIBERO places them from NumPy's global generator.
        given = seed < len(self._starts)
        # What lies on a fixture is placed as if that still stood where the model has it.
        model = self._env.sim.model._model
        model.body_pos[:], model.body_quat[:] = self._bodies
        with _seeded(0 if given else seed):
            self._env.reset()
        if given:
            self._env.sim.set_state_from_flattened(self._starts[seed])
            self._env.sim.forward()
        for _ in range(SETTLING_STEPS):
            self._state = self._env.step(IDLE)[0]
        self._pending = deque([IDLE] * self.deployment.latency_steps)

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        return self._look(self.deployment)

    def _look(self, shift: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        from robosuite.utils.transform_utils import quat2axisangle

        self._dress(shift)
        images = {}
        for name, camera in CAMERAS.items():
            self._renderer.update_scene(self._env.sim.data._data, camera, self._shown)
            for flag in ("SHADOW", "REFLECTION", "SKYBOX"):
                self._renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
            images[name] = np.ascontiguousarray(self._renderer.render()[:, ::-1])
        state = self._state
        axis_angle = quat2axisangle(state["robot0_eef_quat"].copy())  # it may write into what it is given
        proprio = np.concatenate([state["robot0_eef_pos"], axis_angle, state["robot0_gripper_qpos"]])
        return images, proprio.astype(np.float32)

    def step(self, action: np.ndarray) -> bool:
        self._pending.append(np.asarray(action, np.float64))
        command = self._pending.popleft()
        applied = np.concatenate([self.deployment.move(command[:3]), command[3:]])
        self._state, _, success, _ = self._env.step(np.clip(applied, -1.0, 1.0))
        return bool(success)

    def _dress(self, shift: Deployment) -> None:
        """Cameras and lights of a deployment."""
        model, light = self._env.sim.model._model, shift.light * np.array(shift.tint)
        for colour, nominal in zip(lights_of(model), self._lights, strict=True):
            colour[:] = nominal * light
        camera = model.camera(CAMERAS["agentview"])
        camera.pos[:], camera.quat[:] = self._viewpoint
        shift_camera(camera, self._env.workspace_offset[2], shift)
        mujoco.mj_camlight(model, self._env.sim.data._data)

    def close(self) -> None:
        if self._task is not None:
            atexit.unregister(self.close)
            self._renderer.close()
            self._env.close()
            self._task = None

    # What demonstrations and lessons are made with; a policy at work never sees any of it.

    def observe_as(self, deployment: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What `observe` would give in another deployment; as trained, these are the eyes of a teacher."""
        return self._look(deployment)

    def expert(self) -> np.ndarray:
        """The scripted expert's action (7,) in the present state; it reads the simulator's own positions."""
        return self._expert.act()

    def landmarks(self) -> np.ndarray:
        """As of `TrainingWorld`, in the nominal deployment."""
        model, data = self._env.sim.model._model, self._env.sim.data._data
        self._dress(Deployment())
        points, seen = self._expert.landmarks(), []
        for name in CAMERAS.values():
            camera = model.camera(name).id
            x, y, z = data.cam_xmat[camera].reshape(3, 3).T @ (points - data.cam_xpos[camera]).T
            half = -z * np.tan(np.radians(model.cam_fovy[camera]) / 2)  # of the image, at each point's depth
            ahead = np.stack([-x, -y], axis=-1) / np.where(half > 0, half, np.nan)[:, None]  # left and right exchanged
            seen.append(np.where(np.isnan(ahead), np.inf, ahead))
        return np.stack(seen).astype(np.float32)

    def save(self) -> tuple:
        """The simulation's state, for `restore` within the same episode."""
        env, data = self._env, self._env.sim.data._data
        state = np.empty(mujoco.mj_stateSize(env.sim.model._model, STATE))
        mujoco.mj_getState(env.sim.model._model, data, state, STATE)
        robot = env.robots[0]
        memory = robot.controller.goal_pos, robot.controller.goal_ori, robot.gripper.current_action
        clocks = env.timestep, env.cur_time, [[getattr(o, k) for k in SAMPLED] for o in env._observables.values()]
        return state, [np.copy(part) for part in memory], clocks, self._state.copy(), deque(self._pending)

    def restore(self, saved: tuple) -> None:
        env, model, data = self._env, self._env.sim.model._model, self._env.sim.data._data
        state, memory, clocks, self._state, pending = saved
        self._pending = deque(pending)
        mujoco.mj_setState(model, data, state, STATE)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, STATE)  # the solver's warm start, which that replaced
        robot = env.robots[0]
        robot.controller.goal_pos, robot.controller.goal_ori, robot.gripper.current_action = map(np.copy, memory)
        env.timestep, env.cur_time, sampled = clocks
        for observable, values in zip(env._observables.values(), sampled, strict=True):
            for name, value in zip(SAMPLED, values, strict=True):
                setattr(observable, name, value)

    def _build(self, task: str) -> None:
        bddl = self._files / "bddl_files" / f"{task}.bddl"
        self._starts = read_initial_states(self._files / "init_files" / f"{task}.pruned_init")
        _prepare_libero(self._files)
        from libero.libero.envs.env_wrapper import ControlEnv

        with _seeded():
            # Without its cameras, because ours need a third of the time; without hard resets, which build anew.
            self._env = ControlEnv(
                bddl_file_name=str(bddl),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                hard_reset=False,
                ignore_done=True,  # the horizon is the caller's
                control_freq=RATE_HZ,
            ).env
        model = self._env.sim.model._model
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self._image_size
        compiled = mujoco.MjModel.from_xml_string(self._env.model.get_xml())
        self._bodies = compiled.body_pos, compiled.body_quat
        self._lights = [colour.copy() for colour in lights_of(model)]
        camera = model.camera(CAMERAS["agentview"])
        self._viewpoint = camera.pos.copy(), camera.quat.copy()
        self._expert = LiberoExpert(self._env)
        self._shown = mujoco.MjvOption()
        self._shown.geomgroup[0] = 0  # collision shapes
        self._renderer = mujoco.Renderer(model, self._image_size, self._image_size)
        atexit.register(self.close)  # EGL registers its own end with the first renderer; ours must come before
        self._task = task


def find_files(assets: str | os.PathLike | None, suites: Sequence[str]) -> Path:
    """LIBERO's directory: `assets`, else EFN_LIBERO_DIR, else EFN_TEST_DATA/libero, with everything `suites` need.

    Raises ValueError for an unknown suite and FileNotFoundError that names what is missing.
    """
    for suite in suites:
        if suite not in HORIZON:
            raise ValueError(f"LIBERO suite {suite!r} is unknown; there are {', '.join(HORIZON)}")
    remedy = "set `assets` of the world, or EFN_LIBERO_DIR, to a directory with bddl_files, init_files and assets"
    test_data = os.environ.get("EFN_TEST_DATA")
    given = assets or os.environ.get("EFN_LIBERO_DIR") or (test_data and Path(test_data, "libero"))
    if not given:
        raise FileNotFoundError(f"LIBERO's files are not named anywhere: {remedy}")
    directory = Path(given).expanduser().resolve()
    parts = ["assets", *(f"{kind}/{suite}" for kind in ("bddl_files", "init_files") for suite in suites)]
    missing = [part for part in parts if not (directory / part).is_dir()]
    if missing:
        raise FileNotFoundError(f"LIBERO's directory {directory} lacks {', '.join(missing)}: {remedy}")
    return directory


def instruction_of(bddl: Path) -> str:
    """The words of a task, from its file's name without the scene: what LIBERO's benchmark tells a policy, and what
    policies were fine-tuned on. The file's own (:language ...) often says something else."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", bddl.stem).replace("_", " ")


def read_initial_states(file: Path) -> np.ndarray:
    """float64 (n, 1 + positions + velocities): the initial states of a .pruned_init file.

    They are a NumPy array as torch.save writes it; only what makes up such an array is let through, so the file cannot
    run code. Raises pickle.UnpicklingError for one that holds anything else.
    """
    rebuild = np.empty(0).__reduce__()[0]
    names = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]  # NumPy 1 and 2
    allowed = [*names, np.ndarray, np.dtype, np.dtypes.Float64DType]
    with torch.serialization.safe_globals(allowed):
        return torch.load(file, weights_only=True)


def shift_camera(camera, table_m: float, shift: Deployment) -> None:
    """Move a fixed camera of a model around the point of the table (at height `table_m`) that it looks at."""
    position, orientation = camera.pos.copy(), camera.quat.copy()
    frame = np.empty(9)
    mujoco.mju_quat2Mat(frame, orientation)
    right, _, backward = frame.reshape(3, 3).T
    arm = backward * ((position[2] - table_m) / backward[2])  # from the point looked at to the camera
    azimuth, elevation, turn, turned = np.empty(4), np.empty(4), np.empty(4), np.empty(3)
    mujoco.mju_axisAngle2Quat(azimuth, np.array([0.0, 0.0, 1.0]), shift.camera_turn_rad[0])
    mujoco.mju_axisAngle2Quat(elevation, right.copy(), shift.camera_turn_rad[1])
    mujoco.mju_mulQuat(turn, azimuth, elevation)
    mujoco.mju_rotVecQuat(turned, arm, turn)
    camera.pos[:] = position + (shift.zoom * turned - arm) + shift.camera_shift_m
    mujoco.mju_mulQuat(camera.quat, turn, orientation)


@contextlib.contextmanager
def _seeded(seed: int = 0) -> Iterator[None]:
    """Within it NumPy's global generator starts from `seed`; afterwards it goes on as if nothing had been."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _prepare_libero(files: Path) -> None:
    """Make LIBERO importable, with the meshes and textures of `files`."""
    if "libero.libero" not in sys.modules:
        # Without this file the import asks a question on standard input.
        config = tempfile.TemporaryDirectory(prefix="efn_libero_")
        atexit.register(config.cleanup)
        paths = {"benchmark_root": ".", "datasets": ".", "assets": "assets"}
        paths.update(bddl_files="bddl_files", init_states="init_files")
        text = yaml.safe_dump({key: str(files / path) for key, path in paths.items()})
        Path(config.name, "config.yaml").write_text(text, encoding="utf-8")
        os.environ["LIBERO_CONFIG_PATH"] = config.name
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it misses a file that nobody needs
    # The one place that says where the assets are: otherwise they are fetched from a hub.
    importlib.import_module("libero.libero")._assets_path_cache = str(files / "assets")
