# SPDX-License-Identifier: MIT
"""The conditions under which a candidate is accepted."""

from dataclasses import replace

import pytest
import torch
from sample_work import CONFIG, PATTERN, RECALL, bank_of, checkpoint, patterned, random_efn, rollout

from efn_ros.bank import BankReader
from efn_ros.efn.actor import Efn
from efn_ros.online.acceptance import validate_candidate
from efn_ros.online.config import LearnConfig
from efn_ros.training.bank_dataset import BankDataset
from efn_ros.types import Mode


@pytest.fixture
def origin(tmp_path):
    return checkpoint(tmp_path / "origin")


def test_a_candidate_that_is_worse_or_changes_too_much_is_never_accepted(tmp_path, origin):
    rollouts = BankReader(bank_of(tmp_path, patterned(12))).snapshot().rollouts
    zero, random = Efn.from_pretrained(origin), random_efn(origin)
    samples = BankDataset(rollouts, rollouts, RECALL, zero)
    worse = validate_candidate(zero, random, samples, CONFIG, 1.0)
    assert not worse["accepted"] and worse["error"]["candidate"] > worse["error"]["current"]
    good = Efn.from_pretrained(origin)
    with torch.no_grad():
        good.head.bias[: 4 * 3] = torch.atanh(torch.from_numpy(PATTERN).repeat(4) / good.bound.repeat(4))
    assert validate_candidate(zero, good, samples, CONFIG, 1.0)["reason"].startswith("error 0.")
    assert not validate_candidate(zero, zero, samples, CONFIG, 1.0)["accepted"], "the same is not better"
    bounded = validate_candidate(zero, good, samples, replace(CONFIG, max_change=0.2), 1.0)
    assert not bounded["accepted"] and "a decision changes by 0." in bounded["reason"]
    few = validate_candidate(zero, good, samples, replace(CONFIG, min_held_out_successes=100), 1.0)
    assert not few["accepted"] and "10 of 100 held-out successes that were corrected" in few["reason"]


def test_a_gain_on_one_kind_of_success_at_the_cost_of_the_other_is_rejected(tmp_path, origin):
    made = [rollout(i, PATTERN) for i in range(4)] + [rollout(i, 0.0, mode=Mode.BASE) for i in range(4, 20)]
    rollouts = BankReader(bank_of(tmp_path, made)).snapshot().rollouts
    zero, always = Efn.from_pretrained(origin), Efn.from_pretrained(origin)
    with torch.no_grad():
        always.head.bias[: 4 * 3] = torch.atanh(torch.from_numpy(PATTERN).repeat(4) / always.bound.repeat(4))
    samples = BankDataset(rollouts, rollouts, RECALL, zero)
    less, more = (
        validate_candidate(always, zero, samples, CONFIG, 1.0),
        validate_candidate(zero, always, samples, CONFIG, 1.0),
    )
    assert less["error_all"]["candidate"] < less["error_all"]["current"]
    assert not less["accepted"] and less["reason"].startswith("error 0.0000 -> 0.")
    assert more["error"]["candidate"] < more["error"]["current"]
    assert not more["accepted"] and "worse where the base alone succeeded" in more["reason"]


@pytest.mark.parametrize(
    "name, value", [("held_out_fraction", 1.0), ("min_improvement", 0.0), ("kept_candidates", 0), ("max_change", -1.0)]
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        LearnConfig(**{name: value})
