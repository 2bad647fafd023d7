# SPDX-License-Identifier: MIT
"""The simulated robot of fine-tuning: transitions hold the executed actions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sample_finetuning import (
    BOUND,
    DEPLOYMENT,
    TASK,
    A,
    H,
    assert_same,
    make_finetuning,
    run_robot,
    zero_residual,
)

from efn_ros.bank import BankReader
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.replay import tree_map
from efn_ros.experiments.sac.robot import EpisodeJob, bank_directory, base_rollouts_file, make_batch, run_job
from efn_ros.experiments.sac.transitions import network_input, transitions
from efn_ros.training.state import read_state
from efn_ros.types import Outcome
from efn_ros.worlds.metaworld import MetaWorld
from efn_ros.worlds.stepper import Stepper


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    return make_finetuning(tmp_path_factory.mktemp("run"))


@pytest.fixture
def chunks(monkeypatch) -> list[np.ndarray]:
    """The executed chunks, decision by decision."""
    executed = []

    execute = Stepper.execute

    def recording(self, chunk):
        executed.append(chunk)
        execute(self, chunk)

    monkeypatch.setattr(Stepper, "execute", recording)
    return executed


@pytest.mark.simulator
def test_transitions_hold_executed_actions_and_next_observations(settings, chunks):
    rng = np.random.default_rng(0)
    episode, compare = run_robot(settings, lambda inputs: rng.uniform(-0.5, 0.5, (1, H, A)).astype(np.float32))
    rows = transitions(settings, compare, episode)
    assert len(rows.action) == len(chunks) and (np.abs(rows.action) <= 0.5 + 1e-6).all()
    np.testing.assert_allclose(rows.observation.present.base + rows.action, chunks, atol=1e-6)
    assert (np.abs(np.stack(chunks)) <= 1).all()
    assert_same(tree_map(lambda _, x: x[1:], rows.observation), tree_map(lambda _, x: x[:-1], rows.next_observation))
    assert (rows.next_observation.present.proprio[-1] != rows.observation.present.proprio[-1]).any()
    present, _ = network_input(rows.observation)
    np.testing.assert_array_equal(present.sketch[3], episode.steps[3].sketch.dequantise())
    np.testing.assert_array_equal(present.latent[3], episode.steps[3].latent)


@pytest.mark.simulator
def test_the_prefix_of_the_base_is_executed_but_not_stored(settings, chunks):
    calls = []
    episode, compare = run_robot(settings, lambda inputs: calls.append(inputs) or zero_residual(inputs), prefix=0.1)
    prefix = math.ceil(0.1 * MetaWorld.spec.horizon[TASK] / H)
    assert len(calls) == len(episode.residuals) == len(chunks) - prefix > 0
    assert [step.context.step for step in episode.steps] == list(range(prefix, len(chunks) + 1))
    whole, _ = run_robot(settings, zero_residual)  # with a residual of zero both are the episode of the base
    np.testing.assert_array_equal(episode.steps[0].proprio, whole.steps[prefix].proprio)
    over, _ = run_robot(settings, zero_residual, prefix=1.0)
    assert over.success and make_batch(settings, compare, [over]).rows is None


@pytest.mark.simulator
def test_a_transition_is_done_on_success_and_not_when_time_runs_out(settings, monkeypatch):
    episode, compare = run_robot(settings, zero_residual)
    rows = transitions(settings, compare, episode)
    assert episode.success and rows.done[-1] and not rows.done[:-1].any()
    monkeypatch.setitem(MetaWorld.spec.horizon, TASK, 3 * H)
    cut, _ = run_robot(settings, zero_residual)
    rows = transitions(settings, compare, cut)
    assert not cut.success and len(rows.done) == 3 and not rows.done.any()
    np.testing.assert_array_equal(rows.next_observation.present.proprio[-1], episode.steps[3].proprio[0:4])


@pytest.mark.simulator
def test_the_base_fills_the_bank_and_each_rollout_recalls_those_before_it(settings):
    arrays, _ = read_state(base_rollouts_file(settings, DEPLOYMENT))
    records = BankReader(bank_directory(settings, DEPLOYMENT)).rollouts()
    assert [record.outcome == Outcome.SUCCESS for record in records] == arrays["outcomes"].tolist()
    first = records[0].decisions
    assert len(arrays["action"]) == first + records[1].decisions and not arrays["action"].any()
    mask = arrays["observation.recalled.mask"]
    assert mask.shape[1] == settings.nearest_steps + settings.random_steps
    assert not mask[:first].any() and mask[first:].all()


@pytest.mark.simulator
def test_a_job_does_not_depend_on_earlier_jobs(settings):
    job = EpisodeJob(settings, DEPLOYMENT, settings.checkpoint, seed=(0, 3), xi=0.5)
    before = run_job(job)
    run_robot(settings, zero_residual, scene=9)
    again = run_job(job)
    assert_same(before.rows, again.rows)
    assert before.outcomes == again.outcomes and len(before.succeeded) == len(before.rows.action)
    assert (np.abs(before.rows.action) <= 0.5 * np.array(BOUND) + 1e-6).all() and before.rows.action.any()
    other = run_job(replace(job, seed=(0, 4)))
    assert not np.array_equal(other.rows.observation.present.proprio[0], before.rows.observation.present.proprio[0])
