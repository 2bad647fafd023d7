"""Training: from deployments whose shift shows in their memory alone, the EFN learns to take it away."""

import json

import numpy as np
import pytest

from efn_ros.efn import train as training
from efn_ros.efn.lessons import LessonConfig
from efn_ros.efn.network import Efn
from efn_ros.efn.train import Lessons, TrainConfig, fit, train
from efn_ros.worlds.deployment import MAX_GAIN_LOG, MAX_OFFSET, MAX_YAW_RAD, Deployment

H, A, P, L, DZ, T, D = 2, 2, 3, 1, 4, 2, 3
BOUND = (0.5, 0.5)


def deployment(path, seed, rollouts=8, length=12, taught=24):
    """A hidden offset on every command: what a robot did tells it, what it sees does not."""
    rng = np.random.default_rng(seed)
    offset = rng.uniform(-MAX_OFFSET, MAX_OFFSET, A)
    count = rollouts * length
    executed = rng.uniform(-1, 1, (count, H, A))
    proprio = rng.normal(size=(count, P))
    motion = np.pad((executed + offset).mean(axis=1), ((0, 0), (0, P - A)))
    arrays = {
        "bank_rollout": np.repeat(np.arange(rollouts), length), "bank_executed": executed, "bank_base": executed,
        "bank_proprio": proprio, "bank_proprio_next": proprio + 0.05 * motion,
        "bank_latent": rng.normal(size=(count, DZ)), "bank_success": np.ones(count),
        "latent": rng.normal(size=(taught, L, DZ)), "proprio": rng.normal(size=(taught, P)),
        "base": rng.uniform(-1, 1, (taught, H, A)), "target": np.broadcast_to(-offset, (taught, H, A)),
        "similarity": rng.uniform(size=(taught, count)), "sketch_scale": np.ones((taught, T)),
        "deployment": np.tile(np.pad(offset / MAX_OFFSET, (0, 10)), (taught, 1)),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    sketch = rng.integers(-9, 9, (taught, T, D), dtype=np.int8)
    np.savez(path, sketch=sketch, **{name: array.astype(np.float32) for name, array in arrays.items()})
    return path


def config(directory, **changes) -> TrainConfig:
    settings = {
        "batch": 32,
        "dropout": 0.0,
        "disguised": 0.0,
        "validate_every": 100,
        "lessons": LessonConfig(seed=0, bound=BOUND),
    }
    return TrainConfig(str(directory), **{**settings, **changes})


def test_what_memory_alone_tells_is_learnt(tmp_path):
    for seed in range(40):
        deployment(tmp_path / "lessons" / f"{seed}.npz", seed)
    fit(config(tmp_path), range(40), 120, tmp_path / "round_0")
    facts = json.loads((tmp_path / "round_0" / "facts.json").read_text())
    losses = facts["validation"]  # of deployments that were never learnt from
    assert losses["volume_8"] < 0.4 * losses["none"]
    assert losses["identification"] < 0.03  # of 12 coordinates only two differ at all, with a variance of a third
    assert facts["deployments"] == 36 and Efn.from_pretrained(tmp_path / "round_0").config.bound == BOUND


def test_the_same_seed_gives_the_same_weights(tmp_path):
    for seed in range(4):
        deployment(tmp_path / "lessons" / f"{seed}.npz", seed)
    for name in ("a", "b"):
        fit(config(tmp_path), range(4), 5, tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_a_second_run_does_what_is_missing_and_a_later_round_is_driven_by_the_one_before(tmp_path, monkeypatch):
    """Lessons are collected by processes of their own; here a stand-in notes what it is asked for."""
    asked = []

    def gather(config, seeds, directory, checkpoint):
        for seed in seeds:
            if not (directory / f"{seed}.npz").exists():
                asked.append((seed, checkpoint))
                deployment(directory / f"{seed}.npz", seed)

    monkeypatch.setattr(training, "gather", gather)
    settings = config(tmp_path, deployments=(3, 2), updates=(2, 2), first_seed=100)
    assert train(settings) == tmp_path / "round_1"
    first = str(tmp_path / "round_0")
    assert asked == [(100, ""), (101, ""), (102, ""), (103, first), (104, first)]
    asked.clear()
    (tmp_path / "round_1" / "facts.json").unlink()  # killed in the second round
    stamp = (tmp_path / "round_0" / "facts.json").stat().st_mtime_ns
    train(settings)
    assert asked == [] and (tmp_path / "round_1" / "facts.json").exists()
    assert (tmp_path / "round_0" / "facts.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("volume", [1, 3, 8])
def test_a_bank_holds_no_more_rollouts_than_its_volume(tmp_path, volume):
    lessons = Lessons(
        [deployment(tmp_path / "0.npz", 0)], config(tmp_path, lessons=LessonConfig(0, nearest=30, context=30))
    )
    _, recalled, *_ = lessons.batch(np.arange(5), np.random.default_rng(0), volume)
    part = lessons.parts[0]
    for row in range(5):
        there = recalled.there[row].numpy()
        executed = recalled.executed[row][there].numpy()
        rollouts = {part["bank_rollout"][(part["bank_executed"] == e).all(axis=(1, 2))][0] for e in executed}
        assert len(rollouts) <= volume


def test_another_arm_is_a_deployment_row_by_row():
    rng = np.random.default_rng(0)
    arm = training.Arm.draw(50, rng)
    actions = rng.uniform(-0.3, 0.3, (50, 6, 4, 5)).astype(np.float32)
    undone = arm.undo(actions)
    for i in range(50):
        shift = Deployment(offset=tuple(arm.offset[i]), gain=float(arm.gain[i]), yaw_rad=float(arm.yaw_rad[i]))
        np.testing.assert_allclose(undone[i][..., :3], np.clip(shift.undo(actions[i][..., :3]), -1, 1), atol=1e-6)
    np.testing.assert_array_equal(undone[..., 3:], actions[..., 3:])
    assert (arm.gain == 1).any() and (arm.gain != 1).any() and (arm.yaw_rad == 0).any()


def test_a_disguise_keeps_every_motion_and_what_the_base_says_now(tmp_path):
    """Arms of three axes: what the other arm does with the other commands is what was done before."""
    rng = np.random.default_rng(0)
    lessons = Lessons([deployment(tmp_path / "0.npz", 0)], config(tmp_path, lessons=LessonConfig(0, bound=(9.0,) * 4)))
    memory = {name: rng.uniform(-0.2, 0.2, (20, 5, H, 4)).astype(np.float32) for name in ("executed", "base")}
    taught = {name: rng.uniform(-0.2, 0.2, (20, H, 4)).astype(np.float32) for name in ("base", "target")}
    taught["deployment"] = rng.uniform(-1, 1, (20, 12)).astype(np.float32)
    own = taught["deployment"].copy()
    before = {name: array.copy() for name, array in (memory | {"now": taught["base"], "aim": taught["target"]}).items()}
    rows = np.arange(5, 20)
    lessons._disguise(memory, taught, rows, np.random.default_rng(7))
    arm = training.Arm.draw(len(rows), np.random.default_rng(7))
    np.testing.assert_array_equal(taught["base"], before["now"])
    for i, row in enumerate(rows):
        shift = Deployment(offset=tuple(arm.offset[i]), gain=float(arm.gain[i]), yaw_rad=float(arm.yaw_rad[i]))
        for now, then in (
            (memory["executed"][row], before["executed"][row]),
            (taught["base"][row] + taught["target"][row], before["now"][row] + before["aim"][row]),
        ):
            commands = now[..., :3].reshape(-1, 3)
            free = (np.abs(commands) < 1).all(axis=1)  # what would take more than full speed is lost
            moved = np.stack([shift.move(command) for command in commands])
            np.testing.assert_allclose(moved[free], then[..., :3].reshape(-1, 3)[free], atol=1e-5)
    np.testing.assert_array_equal(memory["executed"][:5], before["executed"][:5])
    np.testing.assert_array_equal(taught["target"][:5], before["aim"][:5])
    # The whole arm, that of the deployment after the other one, is what the network is to tell.
    for i, row in enumerate(rows):
        first = Deployment(offset=tuple(arm.offset[i]), gain=float(arm.gain[i]), yaw_rad=float(arm.yaw_rad[i]))
        second, whole = deployment_of(own[row]), deployment_of(taught["deployment"][row])
        command = rng.uniform(-1, 1, 3)
        np.testing.assert_allclose(whole.move(command), second.move(first.move(command)), atol=1e-5)
    np.testing.assert_array_equal(taught["deployment"][:, 5:], own[:, 5:])


def deployment_of(coordinates) -> Deployment:
    offset, gain, yaw = (
        coordinates[:3] * MAX_OFFSET,
        np.exp(coordinates[3] * MAX_GAIN_LOG),
        coordinates[4] * MAX_YAW_RAD,
    )
    return Deployment(offset=tuple(offset.tolist()), gain=float(gain), yaw_rad=float(yaw))
