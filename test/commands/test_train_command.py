"""./efn train: what it asks of the learner, and which words do not go together."""

import math
from pathlib import Path

import pytest

from efn_ros.commands.main import main
from efn_ros.efn import finetune as finetuning
from efn_ros.efn import train as training


@pytest.fixture
def asked(monkeypatch) -> list:
    configs = []
    monkeypatch.setattr(finetuning, "finetune", lambda config: configs.append(config) or Path("round_7"))
    return configs


@pytest.mark.parametrize(
    "words, minutes, episodes",
    [((), 50, 10_000), (("--minutes", "5"), 5, 10_000), (("--episodes", "40"), math.inf, 40)],
)
def test_a_run_is_as_long_as_is_said_and_else_under_an_hour(asked, capsys, words, minutes, episodes):
    assert main(["train", "--finetune", "taught", "--directory", "run", "--seed", "3", *words]) == 0
    (config,) = asked
    assert (config.checkpoint, config.directory, config.seed) == ("taught", "run", 3)
    assert (config.minutes, config.episodes) == (minutes, episodes)
    assert "checkpoint round_7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, deployments, updates",
    [
        (("--quick",), (40, 15), (1500, 4000)),
        (("--quick", "--updates", "2", "3"), (40, 15), (2, 3)),
        (("--deployments", "7", "--updates", "5"), (7,), (5,)),
    ],
)
def test_a_quick_run_has_fewer_deployments_and_updates(monkeypatch, words, deployments, updates):
    configs = []
    monkeypatch.setattr(training, "train", lambda config: configs.append(config) or Path("round_1"))
    assert main(["train", "--directory", "run", *words]) == 0
    assert (configs[0].deployments, configs[0].updates) == (deployments, updates)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("--minutes", "5"), "of --finetune CHECKPOINT"),
        (("--finetune", "taught", "--memoryless"), "--memoryless is of supervised training"),
        (("--finetune", "taught", "--updates", "3"), "--updates is of supervised training"),
    ],
)
def test_words_that_do_not_go_together_are_named(asked, words, complaint):
    with pytest.raises(SystemExit, match=complaint):
        main(["train", *words])
    assert not asked
