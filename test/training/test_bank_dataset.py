# SPDX-License-Identifier: MIT
"""Samples from a bank: their recalled steps, their targets, and the held-out split."""

from dataclasses import replace

import numpy as np
import pytest
from sample_work import PATTERN, RECALL, bank_of, checkpoint, patterned, random_efn, rollout

from efn_ros.bank import BankReader
from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.retrieval import Retriever
from efn_ros.training.bank_dataset import BankDataset, is_held_out
from efn_ros.types import Mode, Outcome


@pytest.fixture
def origin(tmp_path):
    return checkpoint(tmp_path / "origin")


def test_recall_excludes_the_own_rollout_and_in_training_the_held_out_ones(tmp_path, origin):
    rollouts = BankReader(bank_of(tmp_path, patterned(12))).snapshot().rollouts
    efn = Efn.from_pretrained(origin)
    held_out = [r for r in rollouts if is_held_out(r.record.id, 0.3)]
    learnt = [r for r in rollouts if r not in held_out]
    assert held_out and learnt
    for sampled, memory in ((learnt, learnt), (held_out, rollouts)):
        samples = BankDataset(sampled, memory, RECALL, efn)
        assert len(samples) == 6 * len(sampled)
        for i in range(len(samples)):
            own, recalled = sampled[samples.rollout[i]].record.id, samples.recalled_rollouts(i)
            assert recalled and own not in recalled
            assert recalled <= {r.record.id for r in memory}


def test_a_sample_gives_the_residual_of_the_corrector_without_its_rollout(tmp_path, origin):
    made = list(patterned(8))
    rollouts = BankReader(bank_of(tmp_path, made)).snapshot().rollouts
    without = Retriever(BankReader(bank_of(tmp_path, made[:2] + made[3:], "without")), RECALL)
    random_efn(origin).save_pretrained(origin)
    at_work = LearnedResidual(origin, gain=0.5)
    samples = BankDataset(rollouts, rollouts, RECALL, Efn.from_pretrained(origin))
    residuals = samples.residuals(Efn.from_pretrained(origin), 0.5, batch_size=7)[samples.rollout == 2]
    for row, step in enumerate(made[2].steps):
        context = replace(step.policy_step.context, episode_id="another", seed=made[2].seed)
        query = replace(step.policy_step, context=context)
        expected, reason, _ = at_work(query, without.recall(query))
        assert not reason
        np.testing.assert_allclose(residuals[row], expected, atol=1e-6)


def test_targets_are_what_was_added_and_zero_where_the_base_alone_succeeded(tmp_path, origin):
    made = [rollout(0, PATTERN), rollout(1, 0.2, mode=Mode.BASE), rollout(2, PATTERN, Outcome.FAILURE)]
    made.append(rollout(3, PATTERN, mode=Mode.HOLD))
    rollouts = BankReader(bank_of(tmp_path, made)).snapshot().rollouts
    samples = BankDataset(rollouts, rollouts, RECALL, Efn.from_pretrained(origin))
    assert set(samples.rollout) == {0, 1, 2}, "a hold is no sample"
    weight = samples.weights(0.25)
    for index, target, expected in ((0, PATTERN, 1.0), (1, 0.0, 0.25), (2, PATTERN, 0.0)):
        of = samples.rollout == index
        np.testing.assert_allclose(samples.target[of], np.broadcast_to(target, samples.target[of].shape), atol=1e-6)
        assert set(weight[of].tolist()) == {expected}


def test_the_split_does_not_depend_on_the_bank_and_has_the_requested_fraction():
    sides = [is_held_out(f"rollout-{i}", 0.25) for i in range(4000)]
    assert sides == [is_held_out(f"rollout-{i}", 0.25) for i in range(4000)]
    assert 0.22 < np.mean(sides) < 0.28
    assert all(is_held_out(f"rollout-{i}", 0.5) for i in range(4000) if sides[i]), "a larger share only adds"
