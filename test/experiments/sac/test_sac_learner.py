"""The learner of fine-tuning: a run is the same however often it is killed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_finetuning import DEPLOYMENT, A, H, Here, checkpoint, filled

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.critic_disagreement.residual import CautiousResidual
from efn_ros.experiments.sac import learner as learning
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.experiments.sac.learner import finetune
from efn_ros.experiments.sac.replay import Transition, leaves, tree_map
from efn_ros.experiments.sac.robot import Visit, Visited, base_rollouts_of
from efn_ros.experiments.sac.transitions import ActorInput, network_input
from efn_ros.training.state import read_state, write_state


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    return filled(tmp_path_factory.mktemp("run"))


@pytest.mark.simulator
def test_a_run_ends_with_a_checkpoint_that_the_corrector_loads(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "RUN_SEED", DEPLOYMENT)
    monkeypatch.setattr(learning, "MEASURED_SEED", DEPLOYMENT)  # so that one bank is enough
    best = finetune(replace(settings, directory=str(tmp_path)), Here())
    facts = json.loads((best / "facts.json").read_text())
    assert facts["disagreement"] > 0 and facts["successes"]
    assert EfnCritics.from_pretrained(best).n == settings.critics
    CautiousResidual(best, disagreement_scale=facts["disagreement"])


# A stand-in runs the episodes

K, P = 3, 3


def rows_of(seed, directory, count=6) -> Visited:
    """Drawn from the seed; the actions are those of the actor."""
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
    taken = ActorInput(present, np.abs(draw(3)), recalled)
    before, after = (tree_map(lambda _, x, p=p: x[p], taken) for p in (slice(None, -1), slice(1, None)))
    with torch.no_grad():
        tensors = tree_map(lambda _, x: torch.from_numpy(x), network_input(before))
        action = Efn.from_pretrained(directory).residual(*tensors).numpy()
    reward = -np.abs(action).mean((1, 2))
    success = bool(rng.random() < 0.5)
    done = np.arange(count) == count - 1
    rows = Transition(before, action, reward, after, done & success, np.zeros((count, 2), int), reward)
    return Visited((success,), rows, np.full(count, success))


def fills_bank(config, deployment) -> None:
    made = rows_of([deployment], config.checkpoint)
    arrays = leaves(made.rows) | {"outcomes": np.array(made.outcomes), "succeeded": made.succeeded}
    write_state(base_rollouts_of(config, deployment), arrays, {})


def visits(job: Visit) -> Visited:
    return rows_of([job.deployment, *job.seed], job.actor)


@pytest.fixture
def learner(tmp_path, monkeypatch) -> FinetuneConfig:
    monkeypatch.setattr(learning, "fill_bank", fills_bank)
    monkeypatch.setattr(learning, "visit", visits)
    name = checkpoint(tmp_path / "supervised", (2, 4), (3, 5), P)
    return FinetuneConfig(
        str(tmp_path / "run"), name, deployments=3, visits=2, episodes=12, warm_updates=2, critic_rounds=1, phase_in=2,
        updates=0.25, batch_size=8, capacity=40, measured=2, measure_every=4, save_every=2,
    )  # fmt: skip


def weights(directory) -> dict[str, bytes]:
    return {name: (directory / f"{name}.safetensors").read_bytes() for name in ("model", "critics")}


def state(config):
    """All that is kept of the run's end."""
    (last,) = (path for path in Path(config.directory).glob("state_*") if not path.suffix)
    files = {path.name: path.read_bytes() for path in last.iterdir() if path.name != "at.safetensors"}
    at = read_state(last / "at.safetensors")[1]
    return last.name, files, {name: value for name, value in at.items() if name != "seconds"}


def test_a_run_that_was_killed_ends_as_it_would_have_ended(learner, tmp_path, monkeypatch):
    """Killed again and again: in the first measurement, in rounds after a state and before the next one."""
    best, again, left = finetune(learner, Here()), replace(learner, directory=str(tmp_path / "again")), []

    def killed(job):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return visits(job)

    monkeypatch.setattr(learning, "visit", killed)
    for calls in (1, 5, 3, 6):
        left[:] = range(calls)
        with pytest.raises(KeyboardInterrupt):
            finetune(again, Here())
        torch.rand(3)
    monkeypatch.setattr(learning, "visit", visits)
    resumed = finetune(again, Here())
    assert state(again) == state(learner) and resumed.name == best.name and weights(resumed) == weights(best)


def test_a_kill_while_a_state_is_written_leaves_the_one_before(learner, monkeypatch):
    finetune(replace(learner, episodes=4), Here())
    before = state(learner)

    def full(path, arrays, facts):
        raise OSError(f"no space for {path}")

    with monkeypatch.context() as patch:
        patch.setattr(learning, "write_state", full)
        with pytest.raises(OSError, match="no space"):
            finetune(learner, Here())
    assert state(learner) == before


def test_a_longer_run_continues_a_shorter_one(learner, tmp_path):
    whole, parts = learner, replace(learner, directory=str(tmp_path / "parts"))
    finetune(whole, Here())
    for episodes in (6, 12):
        finetune(replace(parts, episodes=episodes), Here())
    assert state(whole) == state(parts)


def test_it_is_the_best_that_is_kept(learner, monkeypatch):
    """Measured at the start and in rounds 4 and 8."""
    outcomes = iter([False, True, True, True, False, False])
    monkeypatch.setattr(
        learning,
        "visit",
        lambda job: replace(visits(job), outcomes=(next(outcomes),)) if job.measures else visits(job),
    )
    other = Path(learner.directory) / "round_0"  # of supervised training, which may have the same directory
    other.mkdir(parents=True)
    best = finetune(replace(learner, episodes=16), Here())
    assert best.name == "best_4" and [path.name for path in best.parent.glob("best_*")] == ["best_4"] and other.exists()
    assert json.loads((best / "facts.json").read_text())["successes"] == {"0": 0.5, "4": 1.0}


def test_learning_begins_with_the_critics_and_the_residual_grows(learner, monkeypatch):
    jobs = {}

    def noted(job):
        if not job.measures:
            jobs.setdefault(job.seed[1], (job.xi, Efn.from_pretrained(job.actor).state_dict()))
        return visits(job)

    monkeypatch.setattr(learning, "visit", noted)
    finetune(replace(learner, xi=0.5, phase_in=4), Here())
    assert [xi for xi, _ in jobs.values()] == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    supervised = Efn.from_pretrained(learner.checkpoint).state_dict()
    half = H * A  # of the head: the mean; the spread is set anew
    for round_, unchanged in ((0, True), (1, True), (2, False)):
        assert torch.equal(jobs[round_][1]["head.weight"][:half], supervised["head.weight"][:half]) == unchanged
    assert (jobs[0][1]["head.bias"][half:] == learner.log_std).all()


def test_a_directory_holds_one_kind_of_run(learner):
    finetune(replace(learner, episodes=2), Here())
    with pytest.raises(ValueError, match="was made with seed 0, not 1; go on with that, or name another directory"):
        finetune(replace(learner, seed=1), Here())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reward": "dense"}, "reward is 'dense'; there are 'sparse', 'semantic', 'anti_idling'"),
        ({"similarity": "cosine"}, "similarity is 'cosine'; there are 'fused', 'key', 'sinkhorn'"),
        ({"visits": 99}, "visits is 99, but there are 32 deployments"),
        ({"tasks": 0}, "tasks is 0; it must be at least 1"),
        ({"bank_rollouts": 101}, "bank_rollouts is 101; it must be from 1 to 100"),
        ({"xi": 1.5}, r"xi is 1.5; it must be in \[0, 1\]"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        FinetuneConfig("", "", **change)


def test_a_checkpoint_that_changes_latent_tokens_is_refused(tmp_path):
    name = checkpoint(tmp_path / "latent", (1, 4), (2, 4), 3)
    config = json.loads((Path(name) / "config.json").read_text()) | {"space": "latent", "latent_bound": [1.0] * 4}
    (Path(name) / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="changes latent tokens, which only the experiment latent_residual does"):
        finetune(FinetuneConfig(str(tmp_path / "run"), name), Here())
    assert not (tmp_path / "run").exists()
