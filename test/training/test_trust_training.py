# SPDX-License-Identifier: MIT
"""Trust learns to separate memory of the own deployment from that of another."""

import json

from sample_deployments import config, deployment

from efn_ros.training.supervised import SupervisedTraining


def test_trust_separates_own_memory_from_that_of_another_deployment(tmp_path):
    """Of deployments not trained on: how the robot moved in this episode is how it moves in its own memory."""
    for seed in range(40):
        deployment(tmp_path / "samples" / f"{seed}.npz", seed)
    SupervisedTraining(config(tmp_path, trust_updates=150)).fit(range(40), 1, tmp_path / "round_0")
    losses = json.loads((tmp_path / "round_0" / "facts.json").read_text())["validation"]
    assert losses["trust_own"] > losses["trust_negative"] + 0.3

    SupervisedTraining(config(tmp_path)).fit(range(3), 1, tmp_path / "few")
    facts = json.loads((tmp_path / "few" / "facts.json").read_text())
    assert facts["validated"] == 1 and "trust_own" in facts["validation"]
    assert "trust_negative" not in facts["validation"], "there is only one deployment"
