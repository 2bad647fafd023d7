# SPDX-License-Identifier: MIT
"""Training of PocketVLA: a killed run resumes to the same weights."""

import multiprocessing

import numpy as np
import pytest

pytest.importorskip("metaworld")

from safetensors.numpy import load_file

from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy
from efn_ros.training.pocket_vla import PocketVlaTrainConfig, learning_rate, train_pocket_vla
from efn_ros.worlds.libero_files import SUITES, find_files
from efn_ros.worlds.registry import world_tasks

SMALL = dict(
    tasks=("coffee-button",),
    episodes=(1, 1),
    updates=(4, 4),
    batch_size=4,
    save_every=2,
    warm_up=2,
    processes=1,
    threads=1,
)


def start_and_kill(directory: str, updates: int) -> None:
    """Train in a process of its own until `updates` are saved, then kill it."""
    import time
    from pathlib import Path

    from efn_ros.training.state import read_state

    process = multiprocessing.get_context("spawn").Process(
        target=train_pocket_vla, args=(PocketVlaTrainConfig(directory, **SMALL),)
    )
    process.start()
    state, done = Path(directory, "state.safetensors"), 0
    while done < updates and process.is_alive():
        time.sleep(0.01)
        if state.exists():
            done = read_state(state)[1]["update"]
    process.kill()
    process.join()


@pytest.mark.simulator
def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    whole = train_pocket_vla(PocketVlaTrainConfig(str(tmp_path / "whole"), **SMALL))
    start_and_kill(str(tmp_path / "killed"), updates=2)
    killed = train_pocket_vla(PocketVlaTrainConfig(str(tmp_path / "killed"), **SMALL))
    expected, found = (load_file(path / "model.safetensors") for path in (whole, killed))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (value == found[name]).all(), name
    policy = PocketVlaPolicy.from_pretrained(whole)
    assert policy.spec.fingerprint == PocketVlaPolicy.from_pretrained(killed).spec.fingerprint


@pytest.mark.simulator
def test_experts_of_libero_train_a_policy_of_another_size(tmp_path):
    try:
        find_files(None, SUITES)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    task = "libero_goal/put_the_cream_cheese_in_the_bowl"
    small = SMALL | {"world": "libero", "tasks": (task,), "episodes": (1,), "updates": (4,)}
    policy = PocketVlaPolicy.from_pretrained(train_pocket_vla(PocketVlaTrainConfig(str(tmp_path), **small)))
    assert policy.spec.cameras == ("agentview", "wrist")
    assert (policy.spec.proprio_size, policy.spec.horizon, policy.spec.action_size) == (8, 4, 7)
    (file,) = (tmp_path / "demonstrations").iterdir()
    with np.load(file) as shown:
        n = len(shown["proprio"])
        assert n > 5 and shown["images"].shape == (n, 2, 96, 96, 3)
        assert shown["actions"].shape == (n, 4, 7) and np.abs(shown["actions"]).max() <= 1.0
        assert shown["landmarks"].shape == (n, 2, 3, 2)
        assert (np.abs(shown["landmarks"][:, 0]) < 1).all(), "hand, object and goal are in view of the outer camera"
        assert set(shown["task"]) == {[*world_tasks("libero")].index(task)}


def test_the_learning_rate_rises_stays_constant_and_falls_to_zero():
    config = PocketVlaTrainConfig("unused", updates=(100,), warm_up=10, cool_down=0.5, learning_rate=1.0)
    rates = [learning_rate(config, update) for update in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
