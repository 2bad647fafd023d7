# SPDX-License-Identifier: MIT
"""The learner of fine-tuning: its result does not depend on interruptions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_finetuning import DEPLOYMENT, A, H, InProcess, checkpoint, make_finetuning

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.critic_disagreement.residual import AttenuatedResidual
from efn_ros.experiments.sac import learner as learning
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.experiments.sac.learner import finetune
from efn_ros.experiments.sac.replay import Transition, leaves, tree_map
from efn_ros.experiments.sac.robot import EpisodeBatch, EpisodeJob, base_rollouts_file
from efn_ros.experiments.sac.transitions import ActorInput, network_input
from efn_ros.training.state import read_state, write_state


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    return make_finetuning(tmp_path_factory.mktemp("run"))


@pytest.mark.simulator
def test_a_run_ends_with_a_checkpoint_that_the_corrector_loads(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "TRAINING_SEED", DEPLOYMENT)
    monkeypatch.setattr(learning, "VALIDATION_SEED", DEPLOYMENT)  # so that one bank is enough
    best = finetune(replace(settings, directory=str(tmp_path)), InProcess())
    facts = json.loads((best / "facts.json").read_text())
    assert facts["disagreement"] > 0 and facts["successes"]
    assert EfnCritics.from_pretrained(best).n == settings.critics
    AttenuatedResidual(best, disagreement_scale=facts["disagreement"])


# Random transitions in place of episodes

K, P = 3, 3


def random_batch(seed, directory, count=6) -> EpisodeBatch:
    """Random transitions, with the actions of the actor."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal((count + 1, *shape), dtype=np.float32)  # noqa: E731
    present = Present(draw(2, 4), rng.integers(-9, 9, (count + 1, 3, 5), np.int8), draw(P), draw(H, A))
    recalled = Recalled(
        draw(K, H, A),
        draw(K, H, A),
        draw(K, P),
        draw(K, P),
        draw(K, H, A),
        draw(K, P),
        draw(K, 4),
        draw(K, 0),
        draw(K),
        draw(K),
        rng.random((count + 1, K)) < 0.5,
    )
    inputs = ActorInput(present, np.abs(draw(3)), recalled)
    before, after = (tree_map(lambda _, x, p=p: x[p], inputs) for p in (slice(None, -1), slice(1, None)))
    with torch.no_grad():
        tensors = tree_map(lambda _, x: torch.from_numpy(x), network_input(before))
        action = Efn.from_pretrained(directory).residual(*tensors).numpy()
    reward = -np.abs(action).mean((1, 2))
    success = bool(rng.random() < 0.5)
    done = np.arange(count) == count - 1
    rows = Transition(before, action, reward, after, done & success, np.zeros((count, 2), int), reward)
    return EpisodeBatch((success,), rows, np.full(count, success))


def fake_bank(config, deployment) -> None:
    batch = random_batch([deployment], config.checkpoint)
    arrays = leaves(batch.rows) | {"outcomes": np.array(batch.outcomes), "succeeded": batch.succeeded}
    write_state(base_rollouts_file(config, deployment), arrays, {})


def fake_job(job: EpisodeJob) -> EpisodeBatch:
    return random_batch([job.deployment, *job.seed], job.actor)


@pytest.fixture
def learner(tmp_path, monkeypatch) -> FinetuneConfig:
    monkeypatch.setattr(learning, "fill_bank", fake_bank)
    monkeypatch.setattr(learning, "run_job", fake_job)
    name = checkpoint(tmp_path / "supervised", (2, 4), (3, 5), P)
    return FinetuneConfig(
        str(tmp_path / "run"), name, deployments=3, round_deployments=2, episodes=12, warm_updates=2, critic_rounds=1,
        phase_in=2, updates=0.25, batch_size=8, capacity=40, validation_deployments=2, validate_every=4, save_every=2,
    )  # fmt: skip


def weights(directory) -> dict[str, bytes]:
    return {name: (directory / f"{name}.safetensors").read_bytes() for name in ("model", "critics")}


def state(config):
    """The last state of a run: its name, its files and its progress."""
    (last,) = (path for path in Path(config.directory).glob("state_*") if not path.suffix)
    files = {path.name: path.read_bytes() for path in last.iterdir() if path.name != "at.safetensors"}
    progress = read_state(last / "at.safetensors")[1]
    return last.name, files, {name: value for name, value in progress.items() if name != "seconds"}


def test_an_interrupted_run_ends_as_an_uninterrupted_one(learner, tmp_path, monkeypatch):
    """Interrupted in the first validation, and in rounds after a state and before the next one."""
    best, again, left = finetune(learner, InProcess()), replace(learner, directory=str(tmp_path / "again")), []

    def interrupted(job):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return fake_job(job)

    monkeypatch.setattr(learning, "run_job", interrupted)
    for calls in (1, 5, 3, 6):
        left[:] = range(calls)
        with pytest.raises(KeyboardInterrupt):
            finetune(again, InProcess())
        torch.rand(3)
    monkeypatch.setattr(learning, "run_job", fake_job)
    resumed = finetune(again, InProcess())
    assert state(again) == state(learner) and resumed.name == best.name and weights(resumed) == weights(best)


def test_a_failure_while_a_state_is_written_leaves_the_previous_one(learner, monkeypatch):
    finetune(replace(learner, episodes=4), InProcess())
    before = state(learner)

    def full(path, arrays, facts):
        raise OSError(f"no space for {path}")

    with monkeypatch.context() as patch:
        patch.setattr(learning, "write_state", full)
        with pytest.raises(OSError, match="no space"):
            finetune(learner, InProcess())
    assert state(learner) == before


def test_a_longer_run_continues_a_shorter_one(learner, tmp_path):
    whole, parts = learner, replace(learner, directory=str(tmp_path / "parts"))
    finetune(whole, InProcess())
    for episodes in (6, 12):
        finetune(replace(parts, episodes=episodes), InProcess())
    assert state(whole) == state(parts)


def test_the_best_checkpoint_is_saved(learner, monkeypatch):
    """Validated at the start and in rounds 4 and 8."""
    outcomes = iter([False, True, True, True, False, False])
    monkeypatch.setattr(
        learning,
        "run_job",
        lambda job: replace(fake_job(job), outcomes=(next(outcomes),)) if job.validate else fake_job(job),
    )
    other = Path(learner.directory) / "round_0"  # of supervised training, which may have the same directory
    other.mkdir(parents=True)
    best = finetune(replace(learner, episodes=16), InProcess())
    assert best.name == "best_4" and [path.name for path in best.parent.glob("best_*")] == ["best_4"] and other.exists()
    assert json.loads((best / "facts.json").read_text())["successes"] == {"0": 0.5, "4": 1.0}


def test_the_critics_learn_first_and_the_share_of_the_bound_grows(learner, monkeypatch):
    jobs = {}

    def recorded(job):
        if not job.validate:
            jobs.setdefault(job.seed[1], (job.xi, Efn.from_pretrained(job.actor).state_dict()))
        return fake_job(job)

    monkeypatch.setattr(learning, "run_job", recorded)
    finetune(replace(learner, xi=0.5, phase_in=4), InProcess())
    assert [xi for xi, _ in jobs.values()] == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    supervised = Efn.from_pretrained(learner.checkpoint).state_dict()
    half = H * A  # of the head: the mean; the spread is set at the start
    for round_, unchanged in ((0, True), (1, True), (2, False)):
        assert torch.equal(jobs[round_][1]["head.weight"][:half], supervised["head.weight"][:half]) == unchanged
    assert (jobs[0][1]["head.bias"][half:] == learner.log_std).all()


def test_a_directory_holds_runs_with_the_same_settings(learner):
    finetune(replace(learner, episodes=2), InProcess())
    with pytest.raises(ValueError, match="was made with seed 0, not 1; use that value, or name another directory"):
        finetune(replace(learner, seed=1), InProcess())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reward": "dense"}, "reward is 'dense'; name one of 'sparse', 'semantic', 'anti_idling'"),
        ({"similarity": "cosine"}, "similarity is 'cosine'; name one of 'fused', 'key', 'sinkhorn'"),
        ({"round_deployments": 99}, "round_deployments is 99; it must be at most deployments, 32"),
        ({"tasks": 0}, "tasks is 0; it must be at least 1"),
        ({"bank_rollouts": 101}, "bank_rollouts is 101; it must be from 1 to 100"),
        ({"xi": 1.5}, r"xi is 1.5; it must be in \[0, 1\]"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        FinetuneConfig("", "", **change)


def test_a_checkpoint_that_changes_latent_tokens_is_refused(tmp_path):
    name = checkpoint(tmp_path / "latent", (1, 4), (2, 4), 3)
    config = json.loads((Path(name) / "config.json").read_text()) | {"space": "latent", "latent_bound": [1.0] * 4}
    (Path(name) / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="changes latent tokens, which only the experiment latent_residual does"):
        finetune(FinetuneConfig(str(tmp_path / "run"), name), InProcess())
    assert not (tmp_path / "run").exists()


def test_a_network_of_another_world_is_refused_before_any_episode(tmp_path):
    libero = Path(learning.__file__).parents[2] / "efn" / "checkpoints" / "libero"
    with pytest.raises(ValueError, match=r"= \(4, 7\), the policy of graph metaworld_sim gives \(4, 4\).*--graph"):
        finetune(FinetuneConfig(str(tmp_path / "run"), str(libero)))
    assert not (tmp_path / "run").exists()
