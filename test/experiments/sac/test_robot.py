"""The simulated robot of fine-tuning: what was executed is what is learned from."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sample_finetuning import BOUND, DEPLOYMENT, TASK, A, H, filled, nothing, run, same

from efn_ros.bank import BankReader
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.replay import tree_map
from efn_ros.experiments.sac.robot import Visit, bank_of, base_rollouts_of, visit, visited_of
from efn_ros.experiments.sac.transitions import network_input, transitions
from efn_ros.training.state import read_state
from efn_ros.types import Outcome
from efn_ros.worlds.metaworld import MetaWorld
from efn_ros.worlds.stepper import Stepper


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    return filled(tmp_path_factory.mktemp("run"))


@pytest.fixture
def chunks(monkeypatch) -> list[np.ndarray]:
    """What was executed, decision by decision."""
    executed = []

    class Noted(Stepper):
        def execute(self, chunk):
            executed.append(chunk)
            super().execute(chunk)

    monkeypatch.setattr("efn_ros.runtime.episode.Stepper", Noted)
    return executed


@pytest.mark.simulator
def test_transitions_hold_what_was_executed_and_what_followed(settings, chunks):
    rng = np.random.default_rng(0)
    episode, compare = run(settings, lambda taken: rng.uniform(-0.5, 0.5, (1, H, A)).astype(np.float32))
    rows = transitions(settings, compare, episode)
    assert len(rows.action) == len(chunks) and (np.abs(rows.action) <= 0.5 + 1e-6).all()
    np.testing.assert_allclose(rows.observation.present.base + rows.action, chunks, atol=1e-6)
    assert (np.abs(np.stack(chunks)) <= 1).all()
    same(tree_map(lambda _, x: x[1:], rows.observation), tree_map(lambda _, x: x[:-1], rows.next_observation))
    assert (rows.next_observation.present.proprio[-1] != rows.observation.present.proprio[-1]).any()
    present, _ = network_input(rows.observation)
    np.testing.assert_array_equal(present.sketch[3], episode.steps[3].sketch.dequantise())
    np.testing.assert_array_equal(present.latent[3], episode.steps[3].latent)


@pytest.mark.simulator
def test_the_bases_prefix_is_walked_but_not_stored(settings, chunks):
    asked = []
    episode, compare = run(settings, lambda taken: asked.append(taken) or nothing(taken), prefix=0.1)
    walked = math.ceil(0.1 * MetaWorld.spec.horizon[TASK] / H)
    assert len(asked) == len(episode.residuals) == len(chunks) - walked > 0
    assert [step.context.step for step in episode.steps] == list(range(walked, len(chunks) + 1))
    whole, _ = run(settings, nothing)  # with a residual of zero both are the base's episode
    np.testing.assert_array_equal(episode.steps[0].proprio, whole.steps[walked].proprio)
    over, _ = run(settings, nothing, prefix=1.0)
    assert over.success and visited_of(settings, compare, [over]).rows is None


@pytest.mark.simulator
def test_success_ends_an_episode_and_time_does_not(settings, monkeypatch):
    episode, compare = run(settings, nothing)
    rows = transitions(settings, compare, episode)
    assert episode.success and rows.done[-1] and not rows.done[:-1].any()
    monkeypatch.setitem(MetaWorld.spec.horizon, TASK, 3 * H)
    cut, _ = run(settings, nothing)
    rows = transitions(settings, compare, cut)
    assert not cut.success and len(rows.done) == 3 and not rows.done.any()
    np.testing.assert_array_equal(rows.next_observation.present.proprio[-1], episode.steps[3].proprio[0:4])


@pytest.mark.simulator
def test_the_base_fills_the_bank_and_each_rollout_recalls_what_was_before_it(settings):
    arrays, _ = read_state(base_rollouts_of(settings, DEPLOYMENT))
    records = BankReader(bank_of(settings, DEPLOYMENT)).rollouts()
    assert [record.outcome == Outcome.SUCCESS for record in records] == arrays["outcomes"].tolist()
    first = records[0].decisions
    assert len(arrays["action"]) == first + records[1].decisions and not arrays["action"].any()
    mask = arrays["observation.recalled.mask"]
    assert mask.shape[1] == settings.nearest_steps + settings.random_steps
    assert not mask[:first].any() and mask[first:].all()


@pytest.mark.simulator
def test_a_visit_is_the_same_whatever_was_run_before(settings):
    job = Visit(settings, DEPLOYMENT, settings.checkpoint, seed=(0, 3), xi=0.5)
    before = visit(job)
    run(settings, nothing, scene=9)
    again = visit(job)
    same(before.rows, again.rows)
    assert before.outcomes == again.outcomes and len(before.succeeded) == len(before.rows.action)
    assert (np.abs(before.rows.action) <= 0.5 * np.array(BOUND) + 1e-6).all() and before.rows.action.any()
    other = visit(replace(job, seed=(0, 4)))
    assert not np.array_equal(other.rows.observation.present.proprio[0], before.rows.observation.present.proprio[0])
