# SPDX-License-Identifier: MIT
"""The first network of a bank: trained on what was added in successes, for any size of bank."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sample_work import BOUND, PATTERN, RECALL, checkpoint, patterned, rollout, store

from efn_ros.bank import BankReader
from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.training.bank_dataset import BankDataset, is_held_out
from efn_ros.training.from_bank import FromBankConfig, train_from_bank
from efn_ros.training.loop import TrainingLoop
from efn_ros.types import Mode, Outcome


@pytest.fixture
def settings(tmp_path) -> FromBankConfig:
    parameters = {
        "/efn/experience_retrieval": {"k": 4, "random_steps": 4, "codes": ""},
        "/efn/efn_corrector": {"limits": {"residual": list(BOUND)}},
    }
    overlay = tmp_path / "robot.yaml"
    overlay.write_text(yaml.safe_dump({node: {"ros__parameters": values} for node, values in parameters.items()}))
    return FromBankConfig(
        str(tmp_path / "run"), str(tmp_path / "bank"), overlays=(str(overlay),), code_size=3, updates=60, batch_size=32,
        held_out_fraction=0.3, validate_every=20,
    )  # fmt: skip


def bank(settings, rollouts):
    return store(Path(settings.bank), rollouts)


def facts(directory) -> dict:
    return json.loads((Path(directory) / "facts.json").read_text())


def test_the_common_part_of_successes_is_learned_and_served(settings):
    bank(settings, patterned(30))
    validation = facts(train_from_bank(settings))["validation"]
    assert validation["corrected_memory"] < 0.2 * validation["corrected_none"]
    served = LearnedResidual(settings.directory)
    assert served.codes is not None
    np.testing.assert_allclose(Efn.from_pretrained(settings.directory).bound, BOUND)


def test_random_exploration_is_averaged_out(settings):
    rng = np.random.default_rng(0)
    bank(settings, (rollout(i, PATTERN + rng.normal(0, 0.1, 3)) for i in range(40)))
    train_from_bank(replace(settings, updates=150))
    training = [r for r in BankReader(settings.bank).snapshot().rollouts if not is_held_out(r.record.id, 0.3)]
    efn = Efn.from_pretrained(settings.directory)
    samples = BankDataset(training, training, RECALL, efn)
    mean = samples.target.mean(axis=(0, 1))
    np.testing.assert_allclose(samples.residuals(efn, 1.0, 64).mean(axis=(0, 1)), mean, atol=0.03)


def test_a_no_memory_baseline_is_trained(settings):
    bank(settings, patterned(30))
    train_from_bank(replace(settings, use_memory=False))
    assert not Efn.from_pretrained(settings.directory).config.use_memory


def test_a_killed_training_resumes_to_the_same_weights(settings, tmp_path, monkeypatch):
    bank(settings, patterned(30))
    whole = Efn.from_pretrained(train_from_bank(settings)).state_dict()
    other, keep = replace(settings, directory=str(tmp_path / "other")), TrainingLoop._save

    def killed(*args):
        keep(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLoop, "_save", killed)
        train_from_bank(other)
    resumed = Efn.from_pretrained(train_from_bank(other)).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not {"from_bank.safetensors", "best.json"} & {path.name for path in Path(other.directory).iterdir()}


def test_a_finished_network_is_neither_trained_again_nor_overwritten(settings, monkeypatch):
    bank(settings, patterned(30))
    train_from_bank(settings)
    monkeypatch.setattr(TrainingLoop, "run", None)
    assert str(train_from_bank(settings)) == settings.directory
    with pytest.raises(ValueError, match="was made with updates 60, not 61; use that value, or name another directory"):
        train_from_bank(replace(settings, updates=61))
    bank(settings, [rollout(99, PATTERN)])
    with pytest.raises(ValueError, match="was made with rollouts 30, not 31"):
        train_from_bank(settings)


def test_without_a_common_part_of_successes_the_network_proposes_no_residual(settings):
    rng = np.random.default_rng(0)
    bank(settings, (rollout(i, rng.normal(0, 0.2, (6, 3))) for i in range(24)))
    validation = facts(train_from_bank(replace(settings, updates=200, weight_decay=0.0, dropout=0.0)))["validation"]
    assert validation["memory"] <= validation["none"]
    lasting = Efn.from_pretrained(settings.directory)
    rollouts = BankReader(settings.bank).snapshot().rollouts
    samples = BankDataset(rollouts, rollouts, RECALL, lasting)
    assert np.abs(samples.residuals(lasting, 1.0, 64)).mean() < 0.25 * np.abs(samples.target).mean()


@pytest.mark.parametrize("sides, missing", [((True,), "to train on"), ((False,), r"held out \(0.3 of all\)")])
def test_a_bank_without_successes_to_train_on_or_to_validate_with_is_refused(settings, sides, missing):
    made = [rollout(i, PATTERN, Outcome.SUCCESS if is_held_out(f"rollout-{i}", 0.3) in sides else Outcome.FAILURE)
            for i in range(20)]  # fmt: skip
    bank(settings, made)
    with pytest.raises(ValueError, match=f"no corrected or explored success {missing}; enable exploration"):
        train_from_bank(settings)


def test_successes_of_the_base_alone_do_not_suffice(settings):
    bank(settings, (rollout(i, 0.0, mode=Mode.BASE) for i in range(20)))
    with pytest.raises(ValueError, match="enable exploration"):
        train_from_bank(settings)


def test_a_nonempty_subset_of_memory_is_drawn_for_each_rollout(tmp_path):
    rollouts = BankReader(store(tmp_path / "bank", patterned(20))).snapshot().rollouts
    efn = Efn.from_pretrained(checkpoint(tmp_path / "origin"))
    samples = BankDataset(rollouts, rollouts, RECALL, efn, subsets=np.random.default_rng(0))
    recalled = [
        set.union(*(samples.recalled_rollouts(i) for i in np.flatnonzero(samples.rollout == r))) for r in range(20)
    ]
    assert min(map(len, recalled)) >= 1 and len({len(ids) for ids in recalled}) > 3
    assert all(rollouts[r].record.id not in ids for r, ids in enumerate(recalled))
