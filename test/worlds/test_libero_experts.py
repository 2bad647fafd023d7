# SPDX-License-Identifier: MIT
"""LIBERO's scripted experts solve tasks, also from where noise has led; skipped where its files are not."""

import numpy as np
import pytest

from efn_ros.worlds.libero import LiberoWorld
from efn_ros.worlds.libero_files import SUITES, find_files

BOWL = "libero_spatial/pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
STOVE = "libero_goal/turn_on_the_stove"


@pytest.fixture(scope="module")
def world():
    try:
        find_files(None, SUITES)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    world = LiberoWorld(image_size=32)
    yield world
    world.close()


def solve(world, task: str) -> bool:
    for _ in range(world.spec.horizon[task]):
        action = world.expert()
        assert action.shape == (7,) and action.dtype == np.float32 and np.abs(action).max() <= 1.0
        if world.step(action):
            return True
    return False


@pytest.mark.simulator
@pytest.mark.parametrize("task", [BOWL, STOVE])
def test_an_expert_solves_its_task(world, task):
    for seed in (0, 1):
        world.reset(task, seed)
        assert solve(world, task), f"seed {seed}"


@pytest.mark.simulator
def test_an_expert_goes_on_from_where_others_have_led(world):
    world.reset(BOWL, 2)
    rng = np.random.default_rng(0)
    drift = rng.uniform(-0.5, 0.5, 7)
    for _ in range(30):
        world.step(np.clip(drift + rng.normal(scale=0.3, size=7), -1.0, 1.0))
    assert solve(world, BOWL)


@pytest.mark.simulator
def test_what_is_restored_goes_on_as_before(world):
    world.reset(BOWL, 0)
    for _ in range(25):  # until the gripper is closing
        world.step(world.expert())
    saved, runs = world.save(), []
    for _ in range(2):
        run = []
        for _ in range(6):
            action = world.expert()
            world.step(action)
            run.append(np.concatenate([action, world.observe()[1], world._state["akita_black_bowl_1_pos"]]))
        runs.append(run)
        world.restore(saved)
    np.testing.assert_array_equal(*runs)
