# SPDX-License-Identifier: MIT
"""./efn checkpoints: what it prints of a registry, and that it switches and undoes without a graph."""

from __future__ import annotations

import json

import pytest
from switcher import fill, report

from efn_ros.commands.main import main
from efn_ros.correction.checkpoint_registry import Registry

CHANGE = {"decisions": 9, "mean": [0.1, 0.1], "largest": [0.2, 0.1], "bound": [0.4, 0.4]}


@pytest.fixture
def bank(tmp_path):
    """One candidate that is offered, and one that was rejected."""
    (tmp_path / "origin").mkdir()
    fill("origin")(tmp_path / "origin")
    registry = Registry(tmp_path / "bank")
    registry.begin(tmp_path / "origin")
    for accepted, reason in ((True, "error 0.2 -> 0.1"), (False, "error 0.2 -> 0.3")):
        said = {**report(registry, accepted, reason), "revision": 7, "change": CHANGE}
        registry.add(fill(reason), said, keep=5)
    return tmp_path / "bank"


def test_the_status_is_a_table_of_checkpoints_and_one_of_switches(bank, capsys):
    assert main(["checkpoints", "status", str(bank)]) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert rows == [
        ["0", "in use", "-", "-", "-", "the origin of learning"],
        ["1", "offered", "0", "7", "50 %", "error 0.2 -> 0.1"],
        ["2", "rejected", "0", "7", "50 %", "error 0.2 -> 0.3"],
    ]
    assert "Switches" not in text
    assert main(["checkpoints", "switch", str(bank), "--why", "it looks good"]) == 0
    said = capsys.readouterr().out
    assert "checkpoint 1 (" in said and "a running graph with learn: true uses it from its next episode on" in said
    main(["checkpoints", "status", str(bank)])
    assert "operator | it looks good |" in capsys.readouterr().out


def test_a_switch_is_undone(bank, capsys):
    assert main(["checkpoints", "switch", str(bank), "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == 1
    assert main(["checkpoints", "undo", str(bank), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["who"] == "undo"
    assert Registry(bank).current().number == 0
    assert main(["checkpoints", "undo", str(bank)]) == 2
    assert "no switch" in capsys.readouterr().err


def test_json_holds_every_report(bank, capsys):
    assert main(["checkpoints", "status", str(bank), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["current"], found["offered"], found["switches"]) == (0, [1], [])
    assert found["checkpoints"][1]["change"] == CHANGE


def test_what_cannot_be_used_is_named(bank, capsys):
    assert main(["checkpoints", "switch", str(bank), "2"]) == 2
    assert "efn checkpoints: checkpoint 2 was rejected: error 0.2 -> 0.3" in capsys.readouterr().err


def test_without_a_checkpoint_the_message_names_the_remedy(tmp_path, capsys):
    assert main(["checkpoints", "status", str(tmp_path)]) == 2
    assert "set learn: true" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_the_old_name_of_the_command_is_read_with_a_warning(bank, capsys):
    assert main(["learn", "status", str(bank)]) == 0
    assert "'learn' is now called 'checkpoints'" in capsys.readouterr().err
