"""./efn train: what it asks of the learner, and which words do not go together."""

import math
from pathlib import Path

import pytest
import yaml

from efn_ros.commands.main import main
from efn_ros.experiments.sac import finetune as finetuning
from efn_ros.training import from_bank as hindsight
from efn_ros.training import supervised as training


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


@pytest.mark.parametrize("words, space", [((), "action"), (("--space", "latent"), "latent")])
def test_what_is_taught_is_a_residual_on_the_action_or_on_latent_tokens(monkeypatch, words, space):
    configs = []
    monkeypatch.setattr(training, "train", lambda config: configs.append(config) or Path("round_1"))
    assert main(["train", "--directory", "run", *words]) == 0
    assert (configs[0].space, configs[0].lessons.visual) == (space, space == "latent")


def test_lessons_are_of_the_tasks_shifts_and_eyes_that_are_named_with_the_robots_bound(monkeypatch, tmp_path):
    configs, overlay = [], tmp_path / "bound.yaml"
    overlay.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": {"limits.residual": [0.1] * 4}}}))
    monkeypatch.setattr(training, "train", lambda config: configs.append(config) or Path("round_1"))
    words = ["--kinds", "offset", "yaw", "--tasks", "drawer-*", "reach", "--views", "0", "--glimpses", "0"]
    assert main(["train", "--params-file", str(overlay), *words]) == 0
    lessons = configs[0].lessons
    assert (lessons.kinds, lessons.tasks) == (("offset", "yaw"), ("drawer-open", "drawer-close", "reach"))
    assert (lessons.views, lessons.glimpses) == (0, 0)
    assert (lessons.bound, lessons.overlays) == ((0.1,) * 4, (str(overlay),))


def test_the_papers_rewards_and_likeness_are_asked_for_by_name(asked):
    assert main(["train", "--finetune", "taught", "--reward", "anti_idling", "--similarity", "sinkhorn"]) == 0
    assert (asked[0].reward, asked[0].similarity) == ("anti_idling", "sinkhorn")


def test_a_bank_teaches_a_network_for_the_robots_parameters(monkeypatch):
    configs = []
    monkeypatch.setattr(hindsight, "teach", lambda config: configs.append(config) or Path("run"))
    assert main(["train", "--bank", "b", "--robot", "r", "--params-file", "p", "--updates", "9", "--memoryless"]) == 0
    (config,) = configs
    assert (config.bank, config.robot, config.overlays) == ("b", "r", ("p",))
    assert (config.updates, config.remembers) == (9, False)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("--finetune", "taught", "--space", "latent"), "--space is of simulated deployments; leave it out"),
        (("--space", "latent", "--install"), "--install is of --space action"),
        (("--minutes", "5"), "--minutes is of --finetune CHECKPOINT; leave it out of a training by simulated"),
        (("--finetune", "taught", "--memoryless"), "--memoryless is of simulated deployments and --bank DIRECTORY"),
        (("--bank", "b", "--reward", "sparse"), "--reward is of --finetune CHECKPOINT"),
        (("--finetune", "taught", "--params-file", "p.yaml"), "--params-file is of simulated deployments and --bank"),
        (("--finetune", "taught", "--bank", "b"), "two trainings"),
        (("--bank", "b", "--updates", "3", "4"), "names 2 rounds; with --bank there is one"),
    ],
)
def test_words_that_do_not_go_together_are_named(asked, words, complaint):
    with pytest.raises(SystemExit, match=complaint):
        main(["train", *words])
    assert not asked
