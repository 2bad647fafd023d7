"""./efn bank: what it prints of a bank, and what it says where there is none."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.catalogue import PAYLOADS
from efn_ros.commands.main import main
from efn_ros.types import Mode

sys.path.append(str(Path(__file__).parents[1] / "bank"))
from sample_rollouts import PROJECTION, make_rollout  # noqa: E402


@pytest.fixture
def bank(tmp_path):
    """Two rollouts: one in shadow, one that learned from it."""
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name, change in (
            ("first", {"mode": Mode.SHADOW, "proposed": np.full((4, 3), 0.125, np.float32)}),
            ("second", {"rollout_id": "first", "rollout_step": 1, "exploration": "noise"}),
        ):
            made = make_rollout(name)
            steps = [dataclasses.replace(s, correction=dataclasses.replace(s.correction, **change)) for s in made.steps]
            writer.append(dataclasses.replace(made, steps=tuple(steps)))
    return tmp_path


def test_stats_are_tables_of_contents_exploration_and_teachers(bank, capsys):
    assert main(["bank", "stats", str(bank)]) == 0
    text = capsys.readouterr().out
    for row in ("| reach, success |        2 |         6 |", "| noise |         3 |", "| first   | reach | success |"):
        assert row in text


def test_a_shadow_is_a_table_with_a_column_for_each_dimension(bank, capsys):
    assert main(["bank", "shadow", str(bank)]) == 0
    text = capsys.readouterr().out
    assert "|    100 % |" in text and text.count("0.125 / 0.125") == 6


@pytest.mark.parametrize("action", ["stats", "shadow"])
def test_json_holds_the_same(bank, capsys, action):
    assert main(["bank", action, str(bank), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["teachers"] if action == "stats" else found
    assert rows[0]["corrections" if action == "stats" else "decisions"] == 3


def test_a_bank_without_shadow_says_how_to_get_one(tmp_path, capsys):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(make_rollout())
    assert main(["bank", "shadow", str(tmp_path)]) == 1
    assert "set shadow: true of efn_corrector" in capsys.readouterr().err


def test_a_shadow_without_a_proposal_has_no_sizes_to_show(tmp_path, capsys):
    made = make_rollout(decisions=1)
    correction = dataclasses.replace(made.steps[0].correction, mode=Mode.SHADOW)
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(dataclasses.replace(made, steps=(dataclasses.replace(made.steps[0], correction=correction),)))
    assert main(["bank", "shadow", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "|      0 % |" in text and "Residual proposed" not in text


def test_where_there_is_no_bank_none_is_made(tmp_path, capsys):
    assert main(["bank", "stats", str(tmp_path / "none")]) == 2
    assert "there is no bank in" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_corrupt_rollout_is_named_and_left_out(bank, capsys):
    record = BankReader(bank).rollouts()[1]
    (bank / PAYLOADS / record.payload).unlink()
    assert main(["bank", "stats", str(bank)]) == 0
    said = capsys.readouterr()
    assert "rollout 'second' is corrupt" in said.err and "| all            |        1 |" in said.out
