# SPDX-License-Identifier: MIT
"""Settings of ./efn train, and options that exclude each other."""

from pathlib import Path

import pytest
import yaml

from efn_ros.commands.main import main
from efn_ros.training import from_bank, supervised


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
    monkeypatch.setattr(supervised, "train", lambda config: configs.append(config) or Path("round_1"))
    assert main(["train", "--directory", "run", *words]) == 0
    assert (configs[0].deployments, configs[0].updates) == (deployments, updates)


def test_tasks_shifts_cameras_and_the_bound_of_the_graph_are_settings_of_collection(monkeypatch, tmp_path):
    configs, overlay = [], tmp_path / "bound.yaml"
    overlay.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": {"limits.residual": [0.1] * 4}}}))
    monkeypatch.setattr(supervised, "train", lambda config: configs.append(config) or Path("round_1"))
    words = ["--kinds", "offset", "yaw", "--tasks", "drawer-*", "reach", "--other-cameras", "0", "--extra-cameras", "0"]
    assert main(["train", "--params-file", str(overlay), *words]) == 0
    collection = configs[0].collection
    assert (collection.kinds, collection.tasks) == (("offset", "yaw"), ("drawer-open", "drawer-close", "reach"))
    assert (collection.other_cameras, collection.extra_cameras) == (0, 0)
    assert (collection.bound, collection.overlays) == ((0.1,) * 4, (str(overlay),))


def test_a_bank_is_trained_from_with_the_parameters_of_the_graph(monkeypatch):
    configs = []
    monkeypatch.setattr(from_bank, "train_from_bank", lambda config: configs.append(config) or Path("run"))
    assert main(["train", "--bank", "b", "--graph", "g", "--params-file", "p", "--updates", "9", "--no-memory"]) == 0
    (config,) = configs
    assert (config.bank, config.graph, config.overlays) == ("b", "g", ("p",))
    assert (config.updates, config.use_memory) == (9, False)


def test_old_names_of_options_are_read_with_a_warning(monkeypatch, capsys):
    configs = []
    monkeypatch.setattr(supervised, "train", lambda config: configs.append(config) or Path("round_1"))
    assert main(["train", "--robot", "metaworld_sim", "--views", "1", "--glimpses", "0", "--memoryless"]) == 0
    collection = configs[0].collection
    assert (collection.other_cameras, collection.extra_cameras, configs[0].use_memory) == (1, 0, False)
    assert "--views is now --other-cameras; version 0.3 removes the old name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (("--bank", "b", "--install"), "--install is of training in simulated deployments; leave it out with --bank"),
        (
            ("--bank", "b", "--kinds", "yaw"),
            "--kinds is of training in simulated deployments; leave it out with --bank",
        ),
        (("--bank", "b", "--updates", "3", "4"), "names 2 rounds; with --bank there is one"),
        (("--deployments", "3", "4", "--updates", "3"), "--deployments names 2 rounds, --updates 1"),
        (("--finetune", "c"), "--finetune is an experiment now: ./efn experiment sac c"),
        (("--finetune", "c", "--minutes", "5"), "--finetune is an experiment now: ./efn experiment sac c"),
        (("--reward", "sparse"), "--reward is of an experiment now: ./efn experiment sac CHECKPOINT"),
        (("--space", "joint"), "--space joint is unknown: a network trained here corrects actions; leave it out"),
        (("--space", "latent"), "--space latent is an experiment now: ./efn experiment latent_residual"),
        (("--tasks", "juggle"), "unknown task juggle; there are reach"),
    ],
)
def test_options_that_exclude_each_other_are_refused(words, message):
    with pytest.raises(SystemExit, match=message):
        main(["train", *words])
