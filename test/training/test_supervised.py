"""Training: from deployments whose shift shows in their memory alone, the EFN learns to take it away."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present
from efn_ros.efn.config import EfnConfig
from efn_ros.features.codes import principal_components
from efn_ros.policies.registry import load_policy
from efn_ros.training import supervised as training
from efn_ros.training.augmentation import Arm
from efn_ros.training.collection import LessonConfig
from efn_ros.training.config import TrainConfig
from efn_ros.training.dataset import Lessons
from efn_ros.training.supervised import fit, train
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
        "bank_executed_before": np.zeros((count, H, A)), "bank_proprio_before": proprio,
        "bank_latent": rng.normal(size=(count, DZ)), "bank_success": np.ones(count),
        "latent": rng.normal(size=(taught, L, DZ)), "proprio": rng.normal(size=(taught, P)),
        "base": rng.uniform(-1, 1, (taught, H, A)), "target": np.broadcast_to(-offset, (taught, H, A)),
        "similarity": rng.uniform(size=(taught, count)), "sketch_scale": np.ones((taught, T)),
        "bank_sketch_scale": np.ones((count, T)),
        "deployment": np.tile(np.pad(offset / MAX_OFFSET, (0, 10)), (taught, 1)),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    sketch = rng.integers(-9, 9, (taught, T, D), dtype=np.int8)
    remembered = rng.integers(-9, 9, (count, T, D), dtype=np.int8)
    np.savez(
        path,
        sketch=sketch,
        bank_sketch=remembered,
        **{name: array.astype(np.float32) for name, array in arrays.items()},
    )
    return path


def config(directory, **changes) -> TrainConfig:
    settings = {
        "batch": 32,
        "dropout": 0.0,
        "disguised": 0.0,
        "codes": 2,
        "trust_updates": 3,
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


# In latent space, through the decoder of a frozen policy

POLICY = load_policy(
    "untrained", cameras=("eye",), image_size=32, keypoint_tokens=2, width=16, heads=2, latent_tokens=2, horizon=H,
    action_low=(-1.0,) * A, action_high=(1.0,) * A,
)  # fmt: skip


def decodable(path, seed):
    """As `deployment`, but the base is decoded from tokens, of which the visual ones are kept."""
    arrays = dict(np.load(deployment(path, seed)))
    rng = np.random.default_rng(seed)
    count = len(arrays["base"])
    latent, visual = (rng.normal(size=(count, *size)) for size in (POLICY.spec.latent, POLICY.spec.tokens))
    arrays |= {"latent": latent.astype(np.float32), "visual": visual.astype(np.float16)}
    decoded = zip(arrays["latent"], arrays["visual"].astype(np.float32), strict=True)
    arrays["base"] = np.stack([POLICY.decode(*tokens) for tokens in decoded])
    arrays["bank_latent"] = rng.normal(size=(len(arrays["bank_base"]), POLICY.spec.latent[1])).astype(np.float32)
    np.savez(path, **arrays)
    return path


@pytest.fixture
def decoded(tmp_path, monkeypatch) -> TrainConfig:
    """Settings for lessons of forty deployments."""
    for seed in range(40):
        decodable(tmp_path / "lessons" / f"{seed}.npz", seed)
    monkeypatch.setattr(training, "make_policy", lambda parameters: POLICY)
    return config(tmp_path, space="latent", latent_share=3.0)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_change_of_latent_tokens_is_learnt_through_a_decoder_that_stays_as_it_is(decoded, tmp_path):
    before = weights(POLICY.decoder())
    decoded = replace(decoded, first_seed=0)
    fit(decoded, range(40), 150, tmp_path / "round_0")
    facts = json.loads((tmp_path / "round_0" / "facts.json").read_text())
    losses = facts["validation"]  # on the action
    assert losses["volume_8"] < 0.6 * losses["none"]
    taught = Efn.from_pretrained(tmp_path / "round_0").config
    assert (taught.space, taught.head_shape, facts["config"]["space"]) == ("latent", POLICY.spec.latent, "latent")
    np.testing.assert_allclose(taught.latent_bound, 3.0, rtol=0.1)  # of tokens that spread by one
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(POLICY.decoder()).items())
    with pytest.raises(ValueError, match="round_0 was made with space latent, not action; .* another directory"):
        train(replace(decoded, space="action", deployments=(40,), updates=(150,)))


def test_gradients_reach_the_whole_head_and_nothing_of_the_policy(decoded, tmp_path):
    decoder = POLICY.decoder()
    lessons = Lessons([tmp_path / "lessons" / "0.npz"], decoded, decoder)
    efn = training._untrained(decoded, lessons)
    lessons.encode(efn)
    torch.nn.init.normal_(efn.head.weight, std=0.1)
    training._residual_loss(efn, lessons, decoded, np.random.default_rng(0))[0].backward()
    means, spreads = efn.head.weight.grad.chunk(2)
    assert (means != 0).any(dim=1).all() and not spreads.any()
    assert not any(p.requires_grad or p.grad is not None for p in decoder.parameters())


def test_an_output_of_zero_is_no_residual_and_one_on_the_action_is_itself(decoded, tmp_path):
    path, rows = tmp_path / "lessons" / "0.npz", np.arange(5)
    lessons, plain = Lessons([path], decoded, POLICY.decoder()), Lessons([path], config(tmp_path))
    present, _, target, *_ = lessons.batch(rows, np.random.default_rng(0))
    assert not lessons.to_action(torch.zeros_like(present.latent), present, rows).any()
    assert plain.to_action(target, present, rows) is target and "visual" not in plain.parts[0]


def test_only_latent_space_keeps_visual_tokens(decoded, tmp_path):
    assert replace(decoded, lessons=LessonConfig(seed=0)).lessons.visual
    assert not config(tmp_path).lessons.visual


def test_a_space_and_lessons_and_a_policy_that_do_not_fit_are_named(decoded, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="space is 'joint'; there are 'action', 'latent'"):
        replace(decoded, space="joint")
    plain = deployment(tmp_path / "plain.npz", 0)
    with pytest.raises(ValueError, match="plain.npz holds no visual tokens, which space 'latent' needs"):
        Lessons([plain], decoded, POLICY.decoder())
    monkeypatch.setattr(training, "make_policy", lambda parameters: load_policy("constant"))
    with pytest.raises(ValueError, match="policy 'constant' of 'libero_sim' has no decoder .* use --space action"):
        fit(decoded, range(40), 1, tmp_path / "round_0")


# What lies in a directory already


def collecting(seen):
    """In place of simulated deployments."""

    def collect(job, directory):
        seen.append(job)
        return [deployment(directory / f"{job.seed}.npz", job.seed)]

    return collect


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"kinds": ("offset",)}, r"kinds \['offset', .*\], not \['offset'\]"),
        ({"tasks": ("push-v3",)}, r"tasks \[\], not \['push-v3'\]"),
        ({"views": 0}, "views 2, not 0"),
        ({"robot": "agibot_g1"}, "robot libero_sim, not agibot_g1"),
    ],
)
def test_lessons_of_another_kind_are_refused_by_name(tmp_path, monkeypatch, other, named):
    seen = []
    monkeypatch.setattr(training, "collect", collecting(seen))
    monkeypatch.setattr(training, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    first = config(tmp_path)
    training.gather(first, range(4), tmp_path / "lessons", "")
    training.gather(first, range(6), tmp_path / "lessons", "round_0")
    assert sorted(job.seed for job in seen) == list(range(6)), "those that are there are kept"
    with pytest.raises(ValueError, match=f"lessons was made with {named}; .* name another directory"):
        training.gather(replace(first, lessons=replace(first.lessons, **other)), range(8), tmp_path / "lessons", "")
    assert len(seen) == 6


def test_a_round_of_other_settings_is_refused_and_one_of_the_same_is_kept(tmp_path):
    for seed in range(4):
        deployment(tmp_path / "lessons" / f"{seed}.npz", seed)
    first = config(tmp_path, deployments=(4,), updates=(2,), first_seed=0)
    assert train(first) == tmp_path / "round_0"
    written = (tmp_path / "round_0" / "model.safetensors").stat().st_mtime_ns
    assert train(replace(first, processes=1)) == tmp_path / "round_0"
    assert (tmp_path / "round_0" / "model.safetensors").stat().st_mtime_ns == written
    for other, named in (({"updates": (3,)}, "updates 2, not 3"), ({"batch": 16}, "batch 32, not 16")):
        with pytest.raises(ValueError, match=f"round_0 was made with {named}"):
            train(replace(first, **other))


# Trust


def test_trust_tells_the_right_memory_from_another_deployments(tmp_path):
    """Of deployments never learnt from: how the robot moved in this episode is how it moves in its own memory."""
    for seed in range(40):
        deployment(tmp_path / "lessons" / f"{seed}.npz", seed)
    fit(config(tmp_path, trust_updates=150), range(40), 1, tmp_path / "round_0")
    losses = json.loads((tmp_path / "round_0" / "facts.json").read_text())["validation"]
    assert losses["trust_right"] > losses["trust_wrong"] + 0.3

    fit(config(tmp_path), range(3), 1, tmp_path / "few")
    facts = json.loads((tmp_path / "few" / "facts.json").read_text())
    assert facts["measured"] == 1 and "trust_right" in facts["validation"]
    assert "trust_wrong" not in facts["validation"], "one deployment has no other to be misled by"


def test_what_the_episode_has_shown_is_no_part_of_its_memory(tmp_path):
    lessons = Lessons([deployment(tmp_path / "0.npz", 0)], config(tmp_path))
    _, recalled, _, _, recent = lessons.batch(np.arange(20), np.random.default_rng(0), 8, recent=5)
    part = lessons.parts[0]

    def rollouts(executed):
        return {part["bank_rollout"][(part["bank_executed"] == e).all(axis=(1, 2))][0] for e in executed.numpy()}

    assert recent.happened.any() and not recent.happened.all()
    for row in range(20):
        shown = rollouts(recent.executed[row][recent.happened[row]])
        assert len(shown) <= 1 and not shown & rollouts(recalled.executed[row][recalled.there[row]])


def test_a_misleading_memory_is_of_the_nearest_robot_in_another_deployment():
    proprio = torch.tensor([[0.0], [0.1], [0.9], [0.3]])
    now = Present(proprio, proprio, proprio, proprio)
    own = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert training.mislead(now, own, np.random.default_rng(0), 1.0).tolist() == [3, 3, 1, 1]
    assert training.mislead(now, own, np.random.default_rng(0), 0.0).tolist() == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_weights(tmp_path):
    for seed in range(4):
        deployment(tmp_path / "lessons" / f"{seed}.npz", seed)
    for name in ("a", "b"):
        fit(config(tmp_path), range(4), 5, tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("killed_at", [1, 3, 5, 8])
def test_a_fit_that_was_killed_goes_on_to_the_same_weights(tmp_path, monkeypatch, killed_at):
    for seed in range(4):
        deployment(tmp_path / "lessons" / f"{seed}.npz", seed)
    settings = config(tmp_path, dropout=0.3, validate_every=2, trust_updates=4)
    fit(settings, range(4), 6, tmp_path / "whole")
    left, kept = [killed_at], Lessons.batch

    def killing(self, *args, **kwargs):
        if len(self) > 24:  # those that are learnt from
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        return kept(self, *args, **kwargs)

    monkeypatch.setattr(Lessons, "batch", killing)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, range(4), 6, tmp_path / "killed")
    if killed_at > 2:
        with pytest.raises(ValueError, match="was made with batch 32, not 16; go on with that, or name another"):
            fit(replace(settings, batch=16), range(4), 6, tmp_path / "killed")
    fit(settings, range(4), 6, tmp_path / "killed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "killed").glob("*.tmp")) and not (tmp_path / "killed" / "efn.safetensors").exists()


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


def test_codes_are_whitened_principal_components_and_those_of_other_cameras_are_left_out(tmp_path):
    paths = [deployment(tmp_path / name, 0, taught=200) for name in ("0.npz", "0_glimpses.npz")]
    settings = config(tmp_path)
    lessons = Lessons(paths, settings)
    mean, basis = principal_components(training.sketches_of(lessons, np.random.default_rng(0)), 3)
    sketches = lessons.taught["sketch"].reshape(len(lessons), -1).astype(np.float64)
    codes = (sketches - mean) @ basis
    np.testing.assert_allclose(codes.T @ codes / len(codes), np.eye(3), atol=0.02)
    deviations = np.linalg.svd(sketches - sketches.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(1 / np.linalg.norm(basis, axis=0), deviations[:3] / len(codes) ** 0.5, rtol=1e-3)

    torch.manual_seed(0)
    ones = (1.0,) * P
    efn = Efn(EfnConfig(H, A, (L, DZ), (T, D), BOUND, ones, ones, ones, codes=3))
    torch.nn.init.normal_(efn.code_basis)
    lessons.encode(efn)
    remembered = np.load(paths[0])["bank_sketch"].reshape(-1, T * D) @ efn.code_basis.numpy()
    np.testing.assert_allclose(lessons.parts[0]["bank_code"], remembered, rtol=1e-4, atol=1e-4)
    assert not lessons.parts[1]["bank_code"].any()


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
    arm = Arm.draw(50, rng)
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
    arm = Arm.draw(len(rows), np.random.default_rng(7))
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
