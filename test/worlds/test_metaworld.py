# SPDX-License-Identifier: MIT
"""Meta-World: experts succeed, scenes repeat bit for bit, and deployments shift what they say."""

import numpy as np
import pytest

from efn_ros.worlds.deployment import KINDS, Deployment
from efn_ros.worlds.metaworld import HORIZON, TASKS, MetaWorld

pytestmark = pytest.mark.simulator
STILL = np.zeros(4, np.float32)


@pytest.fixture(scope="module")
def world():
    world = MetaWorld(image_size=64)
    yield world
    world.close()


@pytest.fixture
def deployed():
    """Builds worlds in a deployment and closes them."""
    worlds = []

    def build(**shifts) -> MetaWorld:
        worlds.append(MetaWorld(image_size=64, deployment=Deployment(**shifts)))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()


def hand(world) -> np.ndarray:
    return world._state[:3].copy()


def roll(world, actions) -> np.ndarray:
    """Proprioception (n, P) after each of `actions`, without an image."""
    states = []
    for action in actions:
        world.step(action)
        states.append(world._state[:4].copy())
    return np.array(states)


def first_images(world, task: str, seed: int) -> dict:
    world.reset(task, seed)
    return world.observe()[0]


def assert_same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, image in left.items():
        np.testing.assert_array_equal(image, right[name], err_msg=name)


def differs(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(float) - right).mean())


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds(world, task):
    for seed in range(3):
        world.reset(task, seed)
        assert any(world.step(world.expert()) for _ in range(HORIZON)), f"seed {seed}"


def test_observations_fit_the_spec(world):
    world.reset("push", 0)
    images, proprio = world.observe()
    assert tuple(images) == world.spec.cameras
    for image in images.values():
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert image.std() > 10
    assert proprio.shape == (len(world.spec.proprio_names),) and proprio.dtype == np.float32
    assert world.expert().shape == world.spec.low.shape
    assert world.landmarks().shape == (2, 3, 2) and np.abs(world.landmarks()).max() < 1.0


def test_frames_change_as_the_hand_moves(world):
    before = first_images(world, "reach", 0)
    start = hand(world)
    roll(world, [np.array([1, 0, 0, 0], np.float32)] * 10)
    assert hand(world)[0] > start[0] + 0.02
    for name, image in world.observe()[0].items():
        assert differs(image, before[name]) > 0.5


@pytest.mark.parametrize("task", ["reach", "pick-place", "drawer-open"])
def test_a_seed_is_a_scene_whatever_came_before(world, deployed, task):
    """Nothing of an earlier episode stays in the image: neither its goal nor what was moved in it."""
    first = first_images(world, task, 1)
    landmarks = world.landmarks()
    other = first_images(world, task, 2)
    assert any(differs(first[name], other[name]) > 0.1 for name in first)
    for _ in range(60):
        world.step(world.expert())
    assert_same(first_images(world, task, 1), first)
    np.testing.assert_array_equal(world.landmarks(), landmarks)
    assert_same(first_images(deployed(), task, 1), first)


def test_a_run_repeats_bit_for_bit(world):
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)
    runs = []
    for _ in range(2):
        world.reset("pick-place", 5)
        runs.append((roll(world, actions), world.observe()[0]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert_same(runs[0][1], runs[1][1])


@pytest.mark.parametrize("latency", [0, 2])
def test_restoring_is_exact(deployed, latency):
    world = deployed(latency_steps=latency)
    world.reset("pick-place", 3)
    for _ in range(40):
        world.step(world.expert())
    saved = world.save()
    actions = np.random.default_rng(1).uniform(-1, 1, (25, 4)).astype(np.float32)
    runs = []
    for _ in range(2):
        runs.append((world.observe()[0], world.expert(), roll(world, actions), world.observe()[0]))
        world.restore(saved)
    for left, right in zip(*runs, strict=True):
        if isinstance(left, dict):
            assert_same(left, right)
        else:
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("latency", [0, 2])
def test_restoring_shows_the_same_scene_and_goes_on_alike(deployed, latency):
    world = deployed(latency_steps=latency)
    world.reset("pick-place", 3)
    for _ in range(40):
        world.step(world.expert())
    saved = world.save()
    actions = np.random.default_rng(1).uniform(-1, 1, (25, 4)).astype(np.float32)
    before, plan, first = world.observe(), world.expert(), roll(world, actions)
    world.restore(saved)
    assert_same(world.observe()[0], before[0])
    np.testing.assert_array_equal(world.observe()[1], before[1])
    np.testing.assert_array_equal(world.expert(), plan)
    np.testing.assert_allclose(roll(world, actions), first, rtol=0, atol=1e-9)


def test_strength_zero_is_nominal_bit_for_bit(world):
    nothing = MetaWorld(image_size=64, deployment=Deployment.draw(9, dict.fromkeys(KINDS, 0.0)))
    actions = np.random.default_rng(2).uniform(-1, 1, (20, 4)).astype(np.float32)
    runs = []
    for each in (world, nothing):
        each.reset("push", 4)
        runs.append((each.observe()[0], roll(each, actions), each.observe()[0]))
    nothing.close()
    assert_same(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert_same(runs[0][2], runs[1][2])


def test_an_offset_moves_a_hand_that_was_commanded_to_stay(world, deployed):
    ways = []
    for each in (world, deployed(offset=(0.3, -0.2, 0.1))):
        each.reset("reach", 0)
        start = hand(each)
        roll(each, [STILL] * 15)
        ways.append(hand(each) - start)
    pushed = ways[1] - ways[0]
    assert pushed[0] > 0.01 and pushed[1] < -0.005 and pushed[2] > 0.002


def test_yaw_turns_and_gain_stretches_the_motion_of_the_hand(world, deployed):
    forward = np.array([0.0, 0.5, 0.0, 0.0], np.float32)
    ways = []
    for each in (world, deployed(yaw_rad=np.pi / 2), deployed(gain=1.7)):
        each.reset("reach", 0)
        start = hand(each)
        roll(each, [forward] * 10)
        ways.append((hand(each) - start)[:2])
    nominal, turned, stretched = ways
    assert nominal[1] > 0.02 and abs(nominal[0]) < 0.2 * nominal[1]
    assert turned[0] < -0.02 and abs(turned[1]) < 0.2 * -turned[0]
    assert stretched[1] > 1.4 * nominal[1]


@pytest.mark.parametrize("latency", [1, 3])
def test_latency_delays_by_its_steps(world, deployed, latency):
    late = deployed(latency_steps=latency)
    actions = np.random.default_rng(3).uniform(-1, 1, (20, 4)).astype(np.float32)
    late.reset("push", 0)
    world.reset("push", 0)
    padded = [STILL] * latency + list(actions)
    np.testing.assert_array_equal(roll(late, padded), roll(world, padded[:latency] + padded)[: len(padded)])
    late.reset("push", 0)
    world.reset("push", 0)
    np.testing.assert_array_equal(roll(late, actions), roll(world, [STILL] * latency + list(actions))[:20])


@pytest.mark.parametrize(
    "shifts",
    [
        {"camera_shift_m": (0.05, 0.0, 0.0)},
        {"camera_turn_rad": (0.15, 0.0)},
        {"camera_turn_rad": (0.0, 0.15)},
        {"zoom": 1.1},
        {"tint": (1.2, 1.0, 0.8)},
    ],
)
def test_cameras_and_light_change_the_image_and_nothing_else(world, deployed, shifts):
    nominal = first_images(world, "reach", 0)
    state = roll(world, [STILL] * 5)
    shifted_world = deployed(**shifts)
    shifted = first_images(shifted_world, "reach", 0)
    for name in nominal:
        assert differs(nominal[name], shifted[name]) > 1
    np.testing.assert_array_equal(roll(shifted_world, [STILL] * 5), state)


def test_a_teacher_observes_the_nominal_scene_and_leaves_no_trace(world, deployed):
    shifted = deployed(camera_shift_m=(0.05, 0.0, 0.0), zoom=1.1, light=0.6, tint=(1.2, 1.0, 0.8))
    seen = first_images(shifted, "reach", 0)
    nominal, proprio = shifted.observe_as(Deployment())
    expected = first_images(world, "reach", 0)
    again, same = shifted.observe()
    for name in expected:
        np.testing.assert_array_equal(nominal[name], expected[name])
        np.testing.assert_array_equal(again[name], seen[name])
    np.testing.assert_array_equal(proprio, same)


def test_light_darkens_and_brightens(world, deployed):
    nominal = first_images(world, "reach", 0)["left"].mean()
    assert first_images(deployed(light=0.5), "reach", 0)["left"].mean() < 0.8 * nominal
    assert first_images(deployed(light=1.5), "reach", 0)["left"].mean() > 1.02 * nominal


def test_an_unknown_task_is_named(world):
    with pytest.raises(ValueError, match="'juggle' is unknown; choose one of reach, push"):
        world.reset("juggle", 0)
