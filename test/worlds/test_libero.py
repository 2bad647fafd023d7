# SPDX-License-Identifier: MIT
"""LIBERO: tasks build, repeat and end in success; skipped where its meshes and textures are not."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from efn_ros.worlds.deployment import KINDS, Deployment
from efn_ros.worlds.libero import IDLE, LiberoWorld
from efn_ros.worlds.libero_files import SUITES, find_files, instruction_of, read_initial_states, read_tasks

DRAWER = "libero_goal/open_the_middle_drawer_of_the_cabinet"
BOWL = "libero_goal/put_the_bowl_on_the_plate"
BLACK_BOWL = "akita_black_bowl_1"
STOVE = "libero_goal/turn_on_the_stove"
NEXT_TO_PLATE = "libero_spatial/pick_up_the_black_bowl_next_to_the_plate_and_place_it_on_the_plate"


@pytest.fixture(scope="module")
def files():
    try:
        return find_files(None, SUITES)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def world(files):
    world = LiberoWorld(image_size=64)
    yield world
    world.close()


def start(world, task: str, seed: int = 0) -> dict:
    world.reset(task, seed)
    return world.observe()[0]


def roll(world, actions) -> np.ndarray:
    """Position (n, 3) of the hand after each of `actions`."""
    positions = []
    for action in actions:
        world.step(action)
        positions.append(world._state["robot0_eef_pos"].copy())
    return np.array(positions)


def assert_same(left: dict, right: dict) -> None:
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def differs(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(float) - right).mean())


@pytest.mark.simulator
def test_every_task_is_listed_with_its_instruction(files, world):
    assert world.spec.tasks == read_tasks()
    for suite, horizon in zip(SUITES, (300, 220), strict=True):
        tasks = [task for task in world.spec.tasks if task.startswith(suite + "/")]
        assert len(tasks) == 10
        for task in tasks:
            assert len(world.spec.tasks[task].split()) >= 3
            assert world.spec.horizon[task] == horizon
            assert read_initial_states(files / "init_files" / f"{task}.pruned_init").shape[0] == 50


@pytest.mark.simulator
@pytest.mark.parametrize("task", [NEXT_TO_PLATE, DRAWER])
def test_a_seed_is_a_scene_whatever_came_before(world, task):
    first = start(world, task, 1)
    images, proprio = world.observe()
    assert tuple(images) == world.spec.cameras
    for image in images.values():
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert image.std() > 10
    assert proprio.shape == (len(world.spec.proprio_names),) and proprio.dtype == np.float32

    action = np.array([0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 1.0], np.float32)
    assert not any(world.step(action) for _ in range(10))
    moved, after = world.observe()
    for name in first:
        assert differs(first[name], moved[name]) > 0.5
    assert after[0] > proprio[0] + 0.02 and after[2] < proprio[2] - 0.02
    assert after[6] < proprio[6] - 0.01  # the gripper closed

    other = start(world, task, 2)
    assert any(differs(first[name], other[name]) > 0.1 for name in first)
    again = start(world, task, 1)
    assert_same(first, again)
    np.testing.assert_array_equal(world.observe()[1], proprio)


@pytest.mark.simulator
def test_beyond_the_initial_states_a_seed_draws_a_scene(world):
    drawn = [start(world, BOWL, seed) for seed in (100_000, 100_001)]
    given = [start(world, BOWL, seed) for seed in (0, 1)]
    for scene in given:
        assert all(differs(scene["agentview"], other["agentview"]) > 0.1 for other in drawn)
    assert differs(drawn[0]["agentview"], drawn[1]["agentview"]) > 0.1
    assert_same(start(world, BOWL, 100_000), drawn[0])


@pytest.mark.simulator
def test_what_lies_on_a_fixture_lies_there_in_every_scene(world):
    task = "libero_spatial/pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"
    heights, apart = [], []
    for seed in (0, 100_000, 100_001):
        world.reset(task, seed)
        data = world._env.sim.data
        bowl, stove = (data.get_body_xpos(world._env.get_object(n).root_body) for n in (BLACK_BOWL, "flat_stove_1"))
        heights.append(bowl[2])
        apart.append(np.linalg.norm((bowl - stove)[:2]))
    assert np.ptp(heights) < 0.005 and max(apart) < 0.25


@pytest.mark.simulator
def test_landmarks_are_at_the_pixels_of_the_objects(world):
    """Painted with a colour of its own, the bowl is there in both images."""
    world.reset(BOWL, 0)
    before = world.observe()[0]
    model = world._env.sim.model._model
    bowl = world._env.get_object(BLACK_BOWL).root_body
    geoms = [g for g in range(model.ngeom) if model.body(model.body_rootid[model.geom_bodyid[g]]).name == bowl]
    colours, materials = model.geom_rgba[geoms].copy(), model.geom_matid[geoms].copy()
    model.geom_rgba[geoms], model.geom_matid[geoms] = (1.0, 0.0, 0.0, 1.0), -1
    painted, landmarks = world.observe()[0], world.landmarks()
    model.geom_rgba[geoms], model.geom_matid[geoms] = colours, materials
    assert landmarks.shape == (2, 3, 2) and landmarks.dtype == np.float32
    for camera, (_, bowl_at, _) in zip(world.spec.cameras, landmarks, strict=True):
        changed = np.abs(painted[camera].astype(int) - before[camera]).sum(-1) > 60
        rows, columns = np.nonzero(changed)
        centre = (np.array([columns.mean(), rows.mean()]) + 0.5) / 32 - 1  # of 64 pixels
        assert np.abs(centre - bowl_at).max() < 0.12, camera


@pytest.mark.simulator
def test_other_cameras_observe_the_same_scene_and_leave_it_as_it_is(world):
    world.reset(BOWL, 0)
    own, proprio = world.observe()
    shift = Deployment(zoom=1.1, light=0.6, offset=(0.3, 0.0, 0.0))
    images, same = world.observe_as(shift)
    np.testing.assert_array_equal(same, proprio)
    assert images["agentview"].mean() < 0.8 * own["agentview"].mean()
    assert_same(world.observe()[0], own)


@pytest.mark.simulator
def test_images_are_upright_with_left_and_right_exchanged(world):
    """As OpenVLA knows them: the wall above the table, the black cabinet, on the robot's right, at the right."""
    image = start(world, DRAWER)["agentview"].astype(float)
    top, bottom = image[:8, :20], image[-8:, :20]  # a grey wall, a table of light wood
    assert np.ptp(top.mean((0, 1))) < 10 and np.ptp(bottom.mean((0, 1))) > 20
    assert image[28:44, -14:].mean() < 0.5 * image[28:44, :14].mean()


@pytest.mark.simulator
def test_success_when_the_drawer_is_open(world):
    world.reset(DRAWER, 0)
    assert not world.step(IDLE)
    data = world._env.sim.data
    joint = world._env.object_sites_dict["wooden_cabinet_1_middle_region"].joints[0]
    data.set_joint_qpos(joint, -0.15)
    assert world.step(IDLE)
    world.reset(DRAWER, 0)
    assert not world.step(IDLE)


@pytest.mark.simulator
def test_success_when_the_stove_is_on_and_no_glow_in_the_next_episode(world):
    first = start(world, STOVE)
    assert not world.step(IDLE)
    world._env.sim.data.set_joint_qpos(world._env.fixtures_dict["flat_stove_1"].joints[0], 1.0)
    assert world.step(IDLE)
    assert differs(world.observe()[0]["agentview"], first["agentview"]) > 0.05
    assert_same(start(world, STOVE), first)


@pytest.mark.simulator
def test_success_when_the_bowl_is_on_the_plate(world):
    world.reset(BOWL, 0)
    assert not world.step(IDLE)
    data = world._env.sim.data
    bowl, plate = (world._env.objects_dict[name].joints[-1] for name in ("akita_black_bowl_1", "plate_1"))
    pose = data.get_joint_qpos(bowl).copy()
    pose[:3] = data.get_joint_qpos(plate)[:3] + (0.0, 0.0, 0.03)
    data.set_joint_qpos(bowl, pose)
    assert any(world.step(IDLE) for _ in range(20))


FORWARD = np.array([0.4, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
WAY = [IDLE, IDLE, *[FORWARD] * 6]


@pytest.fixture(scope="module")
def nominal(world):
    """First images, start of the hand, its way and last images as trained."""
    first, origin = start(world, BOWL), world._state["robot0_eef_pos"].copy()
    run = first, origin, roll(world, WAY), world.observe()[0]
    world.close()  # one built world at a time
    return run


@pytest.fixture
def deployed(nominal):
    """Builds worlds in a deployment, each of them closed before the next."""
    worlds = []

    def build(deployment: Deployment) -> LiberoWorld:
        for world in worlds:
            world.close()
        worlds.append(LiberoWorld(image_size=64, deployment=deployment))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()


@pytest.mark.simulator
def test_strength_zero_is_nominal_bit_for_bit(nominal, deployed):
    nothing = deployed(Deployment.draw(3, dict.fromkeys(KINDS, 0.0)))
    first, _, way, last = nominal
    assert_same(start(nothing, BOWL), first)
    np.testing.assert_array_equal(roll(nothing, WAY), way)
    assert_same(nothing.observe()[0], last)


@pytest.mark.simulator
def test_a_deployment_shifts_the_hand_the_camera_and_the_light(nominal, deployed):
    first, origin, way, _ = nominal
    shift = Deployment(yaw_rad=np.pi / 2, latency_steps=2, zoom=1.1, camera_turn_rad=(0.1, 0.0))
    turned = deployed(shift)
    images = start(turned, BOWL)
    assert differs(images["agentview"], first["agentview"]) > 1
    np.testing.assert_array_equal(images["wrist"], first["wrist"])  # it is the arm's, not the room's
    late = roll(turned, [FORWARD] * 8)
    np.testing.assert_array_equal(late[:2], way[:2])  # nothing of the first command yet
    late, way = late - origin, way - origin
    assert way[-1, 0] > 0.02 and abs(late[-1, 0]) < 0.3 * way[-1, 0]
    assert late[-1, 1] > 0.7 * way[-1, 0]

    lifted = deployed(Deployment(offset=(0.0, 0.0, 0.3), light=0.5))
    dark = start(lifted, BOWL)
    for name in first:
        assert dark[name].mean() < 0.8 * first[name].mean()
    assert (roll(lifted, [IDLE] * 8) - origin)[-1, 2] > 0.02


@pytest.mark.simulator
def test_an_unknown_task_is_named(world):
    with pytest.raises(ValueError, match="'libero_goal/juggle' is unknown; choose one of libero_goal/open_the_middle"):
        world.reset("libero_goal/juggle", 0)


def make_files(directory, suites=SUITES):
    for kind, suite in itertools.product(("bddl_files", "init_files"), suites):
        (directory / kind / suite).mkdir(parents=True)
    (directory / "assets").mkdir()
    return directory


def test_without_a_directory_the_error_names_the_remedy(monkeypatch):
    monkeypatch.delenv("EFN_LIBERO_DIR", raising=False)
    monkeypatch.delenv("EFN_TEST_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set `assets` of the world, or EFN_LIBERO_DIR"):
        LiberoWorld()


def test_what_a_directory_lacks_is_named(tmp_path):
    make_files(tmp_path, ["libero_goal"])
    with pytest.raises(FileNotFoundError, match="lacks bddl_files/libero_spatial, init_files/libero_spatial: set"):
        LiberoWorld(assets=tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks assets, bddl_files/libero_goal"):
        LiberoWorld(assets=tmp_path / "nowhere", suites=["libero_goal"])


def test_the_directory_is_the_setting_then_the_variable_then_the_test_data(monkeypatch, tmp_path):
    made = {name: make_files(tmp_path / name) for name in ("setting", "variable", "data/libero")}
    monkeypatch.setenv("EFN_TEST_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("EFN_LIBERO_DIR", raising=False)
    assert find_files(None, SUITES) == made["data/libero"].resolve()
    monkeypatch.setenv("EFN_LIBERO_DIR", str(made["variable"]))
    assert find_files(None, SUITES) == made["variable"].resolve()
    assert find_files(made["setting"], SUITES) == made["setting"].resolve()


def test_an_unknown_suite_is_named(tmp_path):
    with pytest.raises(ValueError, match="suite 'libero_11' is unknown; choose from libero_spatial"):
        LiberoWorld(assets=tmp_path, suites=["libero_11"])


def test_the_instruction_of_a_task_is_the_words_of_its_file_name():
    assert instruction_of(Path("libero_goal/put_the_bowl_on_the_stove.bddl")) == "put the bowl on the stove"
    long = Path("libero_10/KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it.bddl")
    assert instruction_of(long) == "turn on the stove and put the moka pot on it"


def test_initial_states_that_would_run_code_are_refused(tmp_path):
    import pickle

    import torch

    class Evil:
        def __reduce__(self):
            return print, ("never",)

    torch.save(np.arange(6.0).reshape(2, 3), tmp_path / "good")
    np.testing.assert_array_equal(read_initial_states(tmp_path / "good"), [[0, 1, 2], [3, 4, 5]])
    torch.save(Evil(), tmp_path / "evil")
    with pytest.raises(pickle.UnpicklingError, match="print"):
        read_initial_states(tmp_path / "evil")
