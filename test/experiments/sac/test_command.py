# SPDX-License-Identifier: MIT
"""./efn experiment sac: the settings of a run."""

import math
from pathlib import Path

import pytest

from efn_ros.commands.main import main
from efn_ros.experiments.sac import learner


@pytest.fixture
def configs(monkeypatch) -> list:
    configs = []
    monkeypatch.setattr(learner, "finetune", lambda config: configs.append(config) or Path("round_7"))
    return configs


@pytest.mark.parametrize(
    "words, minutes, episodes",
    [((), 50, 10_000), (("--minutes", "5"), 5, 10_000), (("--episodes", "40"), math.inf, 40)],
)
def test_the_options_set_how_long_a_run_is_and_the_default_is_under_an_hour(configs, capsys, words, minutes, episodes):
    assert main(["experiment", "sac", "supervised", "--directory", "run", "--seed", "3", *words]) == 0
    (config,) = configs
    assert (config.checkpoint, config.directory, config.seed) == ("supervised", "run", 3)
    assert (config.minutes, config.episodes) == (minutes, episodes)
    assert "checkpoint round_7" in capsys.readouterr().out


def test_rewards_and_similarities_are_chosen_by_name(configs):
    assert main(["experiment", "sac", "supervised", "--reward", "anti_idling", "--similarity", "sinkhorn"]) == 0
    assert (configs[0].reward, configs[0].similarity) == ("anti_idling", "sinkhorn")


def test_the_graph_and_its_parameters_are_passed_on(configs):
    assert main(["experiment", "sac", "supervised", "--graph", "libero_sim", "--params-file", "p.yaml"]) == 0
    assert (configs[0].graph, configs[0].overlays) == ("libero_sim", ("p.yaml",))
