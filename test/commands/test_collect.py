# SPDX-License-Identifier: MIT
"""./efn collect: a robot that works for a while leaves a bank, which an evaluation can recall from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from efn_ros.bank import BankReader
from efn_ros.commands.main import main
from efn_ros.types import Mode

WORDS = ["--tasks", "coffee-button", "reach"]


@pytest.mark.simulator
def test_a_second_call_continues_over_the_tasks_and_the_bank_is_recalled_from(tmp_path, capsys):
    bank, exploring = tmp_path / "bank", tmp_path / "exploring.yaml"
    exploration = {"mode": "noise", "scale": 1.0, "episode_fraction": 1.0, "max_confidence": 1.0}
    corrector = {"method": "recalled_action", "gain": 0.0, "exploration": exploration}
    exploring.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": corrector}}))
    for count in (1, 3):
        assert main(["collect", str(bank), "--rollouts", str(count), "--params-file", str(exploring), *WORDS]) == 0
    assert f"bank {bank}: 3 rollouts" in capsys.readouterr().out
    rollouts = BankReader(bank).snapshot().rollouts
    assert [r.record.task for r in rollouts] == ["coffee-button", "reach", "coffee-button"]
    assert len({r.record.seed for r in rollouts}) == 3
    first, second, _ = (r.arrays for r in rollouts)
    assert (first.modes == Mode.BASE).all(), "nothing can be recalled yet, so nothing is explored"
    assert np.abs(second.executed - second.base).max() > 0.01

    results = tmp_path / "results.json"
    words = ["evaluate", "--setting", "as-trained", "--bank", str(bank), "--volumes", "0", "2", "--processes", "1"]
    words += ["--tasks", "coffee-button", "--output", str(tmp_path / "out"), "--results", str(results)]
    assert main(words) == 0
    assert len(json.loads(results.read_text())["episodes"]) == 5
    assert not (tmp_path / "out" / "banks" / "as-trained").exists(), "none is filled where one is given"
    with pytest.raises(SystemExit, match="as many rollouts as the largest of --volumes;.*holds 3"):
        main([*words, "--volumes", "4"])


@pytest.mark.simulator
def test_the_base_alone_collects_without_correction(tmp_path):
    assert main(["collect", str(tmp_path), "--rollouts", "2", "--base", "--tasks", "coffee-*"]) == 0
    rollouts = BankReader(tmp_path).snapshot().rollouts
    assert all((r.arrays.modes == Mode.BASE).all() for r in rollouts)
    assert {r.record.task for r in rollouts} == {"coffee-button"}, "the one that the pattern means"


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(SystemExit, match="unknown task juggle; there are reach"):
        main(["collect", str(tmp_path), "--tasks", "juggle"])
