"""Reinforcement learning: what was lived is what is learnt from, and a run is the same however often it is killed."""

import json
import math
from concurrent.futures import Executor, Future
from dataclasses import replace

import numpy as np
import pytest
import torch

from efn_ros.bank import BankReader
from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.efn.config import EfnConfig
from efn_ros.experiments.sac import finetune as finetuning
from efn_ros.experiments.sac import replay
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.experiments.sac.finetune import (
    FinetuneConfig,
    Likeness,
    Lived,
    Robot,
    Seen,
    Visit,
    finetune,
    observation_of,
    paid,
)
from efn_ros.experiments.sac.replay import Transition, leaves, tree_map
from efn_ros.experiments.sac.rewards import Shaping
from efn_ros.types import Outcome
from efn_ros.worlds.metaworld import MetaWorld
from efn_ros.worlds.stepper import Stepper

H, A = 4, 4
BOUND = (0.6, 0.6, 0.6, 1.0)
DEPLOYMENT, TASK = 20_005, "window-close"  # its light alone differs, and window-close is its first task
SIZES = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16, "channels": 4}


class Here(Executor):
    """Does at once, in this process, what it is given."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # handed over, as any executor does
            future.set_exception(error)
        return future


def checkpoint(directory, latent, sketch, proprio):
    """An EFN that proposes something."""
    torch.manual_seed(0)
    efn = Efn(
        EfnConfig(
            horizon=H, action_size=A, latent=latent, sketch=sketch, bound=BOUND, proprio_mean=(0.0,) * proprio,
            proprio_std=(0.1,) * proprio, motion_std=(0.02,) * proprio, dropout=0.1, **SIZES,
        )
    )  # fmt: skip
    torch.nn.init.normal_(efn.head.weight, std=0.3)
    efn.save_pretrained(directory)
    return str(directory)


def same(one, other) -> None:
    for name, array in leaves(one).items():
        np.testing.assert_array_equal(array, leaves(other)[name], err_msg=name)


# What is lived


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    """One deployment of one task, in which the base has filled the bank with two rollouts."""
    directory = tmp_path_factory.mktemp("run")
    name = checkpoint(directory / "taught", (4, 128), (80, 128), 4)
    config = FinetuneConfig(
        str(directory), name, deployments=1, visits=1, visit_episodes=1, tasks=1, remembered=2, volumes=(2,), nearest=3,
        context=2, measured=1, measured_episodes=1, episodes=1, warm_updates=1, critic_rounds=0, batch=4,
    )  # fmt: skip
    for part in ("banks", "base"):
        (directory / part).mkdir()
    finetuning.remember(config, DEPLOYMENT)
    return config


@pytest.fixture
def chunks(monkeypatch) -> list[np.ndarray]:
    """What was executed, decision by decision."""
    executed = []

    class Noted(Stepper):
        def execute(self, chunk):
            executed.append(chunk)
            super().execute(chunk)

    monkeypatch.setattr(finetuning, "Stepper", Noted)
    return executed


def lived(settings, act, prefix=0.0, scene=1):
    robot = Robot(settings, DEPLOYMENT, settings.checkpoint)
    memory = BankReader(finetuning._bank(settings, DEPLOYMENT))
    return robot.live("e", TASK, scene, memory, act, prefix), robot.likeness


def nothing(seen: Seen) -> np.ndarray:
    return np.zeros((1, H, A), np.float32)


@pytest.mark.simulator
def test_rows_say_what_was_executed_where_and_what_came_of_it(settings, chunks):
    rng = np.random.default_rng(0)
    episode, likeness = lived(settings, lambda seen: rng.uniform(-0.5, 0.5, (1, H, A)).astype(np.float32))
    rows = finetuning.transitions(settings, likeness, episode)
    assert len(rows.action) == len(chunks) and (np.abs(rows.action) <= 0.5 + 1e-6).all()
    np.testing.assert_allclose(rows.observation.present.base + rows.action, chunks, atol=1e-6)
    assert (np.abs(np.stack(chunks)) <= 1).all()
    same(tree_map(lambda _, x: x[1:], rows.observation), tree_map(lambda _, x: x[:-1], rows.next_observation))
    assert (rows.next_observation.present.proprio[-1] != rows.observation.present.proprio[-1]).any()
    present, _ = observation_of(rows.observation)
    np.testing.assert_array_equal(present.sketch[3], episode.steps[3].sketch.dequantise())
    np.testing.assert_array_equal(present.latent[3], episode.steps[3].latent)


@pytest.mark.simulator
def test_the_bases_prefix_is_walked_but_not_stored(settings, chunks):
    asked = []
    episode, likeness = lived(settings, lambda seen: asked.append(seen) or nothing(seen), prefix=0.1)
    walked = math.ceil(0.1 * MetaWorld.spec.horizon[TASK] / H)
    assert len(asked) == len(episode.residuals) == len(chunks) - walked > 0
    assert [step.context.step for step in episode.steps] == list(range(walked, len(chunks) + 1))
    whole, _ = lived(settings, nothing)  # with a residual of zero both are the base's episode
    np.testing.assert_array_equal(episode.steps[0].proprio, whole.steps[walked].proprio)
    over, _ = lived(settings, nothing, prefix=1.0)
    assert over.success and finetuning._lived(settings, likeness, [over]).rows is None


@pytest.mark.simulator
def test_success_ends_an_episode_and_time_does_not(settings, monkeypatch):
    episode, likeness = lived(settings, nothing)
    rows = finetuning.transitions(settings, likeness, episode)
    assert episode.success and rows.done[-1] and not rows.done[:-1].any()
    monkeypatch.setitem(MetaWorld.spec.horizon, TASK, 3 * H)
    cut, _ = lived(settings, nothing)
    rows = finetuning.transitions(settings, likeness, cut)
    assert not cut.success and len(rows.done) == 3 and not rows.done.any()
    np.testing.assert_array_equal(rows.next_observation.present.proprio[-1], episode.steps[3].proprio[0:4])


@pytest.mark.simulator
def test_what_is_followed_is_chosen_once_and_then_advances(settings):
    episode, likeness = lived(settings, nothing, prefix=0.1)
    _, reference = paid(settings, likeness, episode)
    rollout, step = reference.T
    length = len(episode.remembered[rollout[0]].arrays.steps)
    assert episode.remembered[rollout[0]].record.outcome == Outcome.SUCCESS and len(set(rollout)) == 1
    assert step[0] > 0  # memory's beginning is not like what comes after the prefix
    np.testing.assert_array_equal(step, np.minimum(step[0] + np.arange(len(step)), length - 1))
    alone = replace(episode, remembered=())
    reward, reference = paid(settings, likeness, alone)
    assert (reference == -1).all() and reward.tolist() == [0.0] * (len(reward) - 1) + [1.0]


@pytest.mark.simulator
def test_the_potential_cancels_over_an_episode_whatever_is_done_in_it(settings):
    gamma = settings.sac.gamma
    episode, likeness = lived(settings, nothing)
    reward, reference = paid(settings, likeness, episode)
    followed = likeness.stored(episode.remembered[reference[0, 0]])
    similarity = likeness(likeness.of(episode.steps[:1]), followed)
    first = finetuning.Reference(len(similarity)).potential(similarity)
    discounts = gamma ** np.arange(len(reward))
    assert discounts @ reward == pytest.approx(discounts[-1] - first, abs=1e-4) and 0 < first < 1
    to_go = finetuning.transitions(settings, likeness, episode).return_to_go
    assert to_go[0] == pytest.approx(discounts @ reward, abs=1e-4) and to_go[-1] == reward[-1]


@pytest.mark.simulator
@pytest.mark.parametrize("similarity", ["fused", "sinkhorn"])
def test_the_papers_rewards_are_those_of_the_likeness_to_what_is_followed(settings, similarity):
    episode, _ = lived(settings, nothing)
    short = replace(
        episode, steps=[*episode.steps[:2], episode.steps[-1]], residuals=episode.residuals[:2] + 0.1, success=False
    )
    likeness = Likeness(similarity, np.full(4, 0.1, np.float32))
    shaping = Shaping(success=1.0)
    config = replace(settings, similarity=similarity, shaping=shaping)
    signs = likeness.of(short.steps)
    _, reference = paid(replace(config, reward="semantic"), likeness, short)
    followed = likeness.stored(short.remembered[reference[0, 0]])
    following, present = (
        likeness(signs[1:], followed[reference[:, 1] + 1]),
        likeness(signs[:-1], followed[reference[:, 1]]),
    )
    stay = likeness(signs[1:], signs[:-1])
    assert ((following >= 0) & (following <= 1)).all() and (likeness(signs, signs) > 0.9).all()
    semantic, _ = paid(replace(config, reward="semantic"), likeness, short)
    np.testing.assert_allclose(semantic, following - shaping.residual * H * A * 0.01, atol=1e-5)
    idle = following * np.maximum(shaping.tolerance - (following - present), 0) * stay
    expected = following + np.maximum(following - present, 0) + 0.1 * (1 - stay) - idle - 0.01
    np.testing.assert_allclose(paid(replace(config, reward="anti_idling"), likeness, short)[0], expected, atol=1e-5)


@pytest.mark.simulator
def test_the_base_fills_the_bank_and_each_rollout_recalls_what_was_before_it(settings):
    arrays, _ = replay.read(finetuning._base(settings, DEPLOYMENT))
    records = BankReader(finetuning._bank(settings, DEPLOYMENT)).rollouts()
    assert [record.outcome == Outcome.SUCCESS for record in records] == arrays["outcomes"].tolist()
    first = records[0].decisions
    assert len(arrays["action"]) == first + records[1].decisions and not arrays["action"].any()
    there = arrays["observation.recalled.there"]
    assert there.shape[1] == settings.nearest + settings.context
    assert not there[:first].any() and there[first:].all()


@pytest.mark.simulator
def test_a_visit_is_the_same_whatever_was_lived_before(settings):
    job = Visit(settings, DEPLOYMENT, settings.checkpoint, seed=(0, 3), xi=0.5)
    before = finetuning.visit(job)
    lived(settings, nothing, scene=9)
    again = finetuning.visit(job)
    same(before.rows, again.rows)
    assert before.outcomes == again.outcomes and len(before.succeeded) == len(before.rows.action)
    assert (np.abs(before.rows.action) <= 0.5 * np.array(BOUND) + 1e-6).all() and before.rows.action.any()
    other = finetuning.visit(replace(job, seed=(0, 4)))
    assert not np.array_equal(other.rows.observation.present.proprio[0], before.rows.observation.present.proprio[0])


@pytest.mark.simulator
def test_a_run_ends_with_a_checkpoint_that_the_corrector_loads(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "LIVED_SEED", DEPLOYMENT)
    monkeypatch.setattr(finetuning, "MEASURED_SEED", DEPLOYMENT)  # so that one bank is enough
    best = finetune(replace(settings, directory=str(tmp_path)), Here())
    facts = json.loads((best / "facts.json").read_text())
    assert facts["disagreement"] > 0 and facts["successes"]
    assert EfnCritics.from_pretrained(best).n == settings.critics
    LearnedResidual(best, disagreement_scale=facts["disagreement"])


# The learner: a stand-in lives


K, P = 3, 3


def rows_of(seed, directory, count=6) -> Lived:
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
    seen = Seen(present, np.abs(draw(3)), recalled)
    before, after = (tree_map(lambda _, x, p=p: x[p], seen) for p in (slice(None, -1), slice(1, None)))
    with torch.no_grad():
        tensors = tree_map(lambda _, x: torch.from_numpy(x), observation_of(before))
        action = Efn.from_pretrained(directory).residual(*tensors).numpy()
    reward = -np.abs(action).mean((1, 2))
    success = bool(rng.random() < 0.5)
    done = np.arange(count) == count - 1
    rows = Transition(before, action, reward, after, done & success, np.zeros((count, 2), int), reward)
    return Lived((success,), rows, np.full(count, success))


def remembers(config, deployment) -> None:
    made = rows_of([deployment], config.checkpoint)
    arrays = leaves(made.rows) | {"outcomes": np.array(made.outcomes), "succeeded": made.succeeded}
    replay.write(finetuning._base(config, deployment), arrays, {})


def visits(job: Visit) -> Lived:
    return rows_of([job.deployment, *job.seed], job.actor)


@pytest.fixture
def learner(tmp_path, monkeypatch) -> FinetuneConfig:
    monkeypatch.setattr(finetuning, "remember", remembers)
    monkeypatch.setattr(finetuning, "visit", visits)
    name = checkpoint(tmp_path / "taught", (2, 4), (3, 5), P)
    return FinetuneConfig(
        str(tmp_path / "run"), name, deployments=3, visits=2, episodes=12, warm_updates=2, critic_rounds=1, phase_in=2,
        updates=0.25, batch=8, capacity=40, measured=2, measure_every=4, save_every=2,
    )  # fmt: skip


def weights(directory) -> dict[str, bytes]:
    return {name: (directory / f"{name}.safetensors").read_bytes() for name in ("model", "critics")}


def state(config):
    """All that is kept of the run's end."""
    (last,) = (path for path in finetuning.Path(config.directory).glob("state_*") if not path.suffix)
    files = {path.name: path.read_bytes() for path in last.iterdir() if path.name != "at.safetensors"}
    at = replay.read(last / "at.safetensors")[1]
    return last.name, files, {name: value for name, value in at.items() if name != "seconds"}


def test_a_run_that_was_killed_comes_to_what_it_would_have_come_to(learner, tmp_path, monkeypatch):
    """Killed again and again: in the first measurement, in rounds after a state and before the next one."""
    best, again, left = finetune(learner, Here()), replace(learner, directory=str(tmp_path / "again")), []

    def killed(job):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return visits(job)

    monkeypatch.setattr(finetuning, "visit", killed)
    for calls in (1, 5, 3, 6):
        left[:] = range(calls)
        with pytest.raises(KeyboardInterrupt):
            finetune(again, Here())
        torch.rand(3)
    monkeypatch.setattr(finetuning, "visit", visits)
    resumed = finetune(again, Here())
    assert state(again) == state(learner) and resumed.name == best.name and weights(resumed) == weights(best)


def test_a_kill_while_a_state_is_written_leaves_the_one_before(learner, monkeypatch):
    finetune(replace(learner, episodes=4), Here())
    before = state(learner)

    def full(path, arrays, facts):
        raise OSError(f"no space for {path}")

    with monkeypatch.context() as patch:
        patch.setattr(replay, "write", full)
        with pytest.raises(OSError, match="no space"):
            finetune(learner, Here())
    assert state(learner) == before


def test_a_longer_run_is_that_of_the_start_gone_on_with(learner, tmp_path):
    whole, parts = learner, replace(learner, directory=str(tmp_path / "parts"))
    finetune(whole, Here())
    for episodes in (6, 12):
        finetune(replace(parts, episodes=episodes), Here())
    assert state(whole) == state(parts)


def test_it_is_the_best_that_is_kept(learner, monkeypatch):
    """Measured at the start and in rounds 4 and 8."""
    outcomes = iter([False, True, True, True, False, False])
    monkeypatch.setattr(
        finetuning,
        "visit",
        lambda job: replace(visits(job), outcomes=(next(outcomes),)) if job.measures else visits(job),
    )
    other = finetuning.Path(learner.directory) / "round_0"  # of the teaching, which may have the same directory
    other.mkdir(parents=True)
    best = finetune(replace(learner, episodes=16), Here())
    assert best.name == "best_4" and [path.name for path in best.parent.glob("best_*")] == ["best_4"] and other.exists()
    assert json.loads((best / "facts.json").read_text())["successes"] == {"0": 0.5, "4": 1.0}


def test_learning_begins_with_the_critics_and_the_residual_grows(learner, monkeypatch):
    seen = {}

    def noted(job):
        if not job.measures:
            seen.setdefault(job.seed[1], (job.xi, Efn.from_pretrained(job.actor).state_dict()))
        return visits(job)

    monkeypatch.setattr(finetuning, "visit", noted)
    finetune(replace(learner, xi=0.5, phase_in=4), Here())
    assert [xi for xi, _ in seen.values()] == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    taught = Efn.from_pretrained(learner.checkpoint).state_dict()
    half = H * A  # of the head: the mean; the spread is set anew
    for round_, unchanged in ((0, True), (1, True), (2, False)):
        assert torch.equal(seen[round_][1]["head.weight"][:half], taught["head.weight"][:half]) == unchanged
    assert (seen[0][1]["head.bias"][half:] == learner.log_std).all()


def test_a_directory_holds_one_kind_of_run(learner):
    finetune(replace(learner, episodes=2), Here())
    with pytest.raises(ValueError, match="holds a run with seed 0, not 1; name another one"):
        finetune(replace(learner, seed=1), Here())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reward": "dense"}, "reward is 'dense'; there are 'sparse', 'semantic', 'anti_idling'"),
        ({"similarity": "cosine"}, "similarity is 'cosine'; there are 'fused', 'sinkhorn'"),
        ({"visits": 99}, "visits is 99, but there are 32 deployments"),
        ({"tasks": 0}, "tasks is 0; it must be from 1 to 12"),
        ({"remembered": 101}, "remembered is 101; it must be from 1 to 100"),
        ({"xi": 1.5}, r"xi is 1.5; it must be in \[0, 1\]"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        FinetuneConfig("", "", **change)


def test_a_checkpoint_that_changes_latent_tokens_is_refused(tmp_path):
    taught = Efn.from_pretrained(checkpoint(tmp_path / "taught", (1, 4), (2, 4), 3)).config
    Efn(replace(taught, space="latent", latent_bound=(1.0,) * 4)).save_pretrained(tmp_path / "latent")
    with pytest.raises(
        ValueError, match="has space 'latent', but reinforcement learning needs a residual on the action"
    ):
        finetune(FinetuneConfig(str(tmp_path / "run"), str(tmp_path / "latent")), Here())
    assert not (tmp_path / "run").exists()
