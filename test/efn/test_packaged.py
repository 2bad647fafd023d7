# SPDX-License-Identifier: MIT
"""What comes with the package fits together: policy, network and the bank of one deployment."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from efn_ros.bank import BankReader
from efn_ros.commands.demo import SEED_BANKS
from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import PACKAGED as CHECKPOINTS
from efn_ros.report.efn_card import install
from efn_ros.runtime.factory import make_corrector, make_inference, make_policy, make_retriever
from efn_ros.runtime.graph import Graph
from efn_ros.training.config import TrainConfig
from efn_ros.types import Mode, Observation, StepContext

MOST_BYTES = 20_000_000
PACKAGED = CHECKPOINTS / "metaworld"


@pytest.fixture(scope="module")
def graph():
    return Graph.load("metaworld_sim")


@pytest.fixture
def bank(tmp_path):
    """A copy: who reads a bank leaves files of SQLite in it."""
    return shutil.copytree(SEED_BANKS / "actuation", tmp_path / "bank")


def test_the_network_corrects_the_policy_from_the_bank_that_comes_along(graph, bank):
    inference = make_inference(graph.parameters("vla_policy"))
    reader = BankReader(bank)
    retriever = make_retriever(graph.parameters("experience_retrieval"), reader)
    corrector = make_corrector(graph.parameters("efn_corrector"))
    remembered = reader.snapshot().rollouts[0]
    assert {rollout.policy for rollout in reader.rollouts()} == {inference.policy.spec.fingerprint}
    seen = {camera: reader.image(remembered.record.id, 0, camera) for camera in ("left", "right")}
    noise = np.random.default_rng(0).integers(0, 256, seen["left"].shape, dtype=np.uint8)
    context = StepContext("e0", 0, 0, remembered.record.task, remembered.record.instruction)

    def corrected(images):
        step = inference(Observation(context, images, remembered.arrays.proprio[0]))
        return corrector.correct(step, retriever.recall(step))

    correction = corrected(seen)
    assert correction.mode == Mode.CORRECTED and correction.residual.any() and correction.trust > 0.5
    bound = graph.parameters("efn_corrector")["limits.residual"]
    assert (np.abs(correction.residual) <= np.float32(bound)).all()
    assert corrected({"left": noise, "right": noise}).trust < 0.01, "this was never seen here"


@pytest.mark.parametrize("world", ["metaworld", "libero"])
def test_recall_and_limits_are_those_that_the_network_was_trained_with(world):
    graph = Graph.load(f"{world}_sim")
    collection = json.loads((CHECKPOINTS / world / "card.json").read_text())["training"]["config"]["lessons"]
    recall, corrector = graph.parameters("experience_retrieval"), graph.parameters("efn_corrector")
    assert (recall["k"], recall["random_steps"]) == (collection["nearest"], collection["context"])
    assert corrector["limits.residual"] == collection["bound"] and corrector["gain"] == 1.0


def test_policy_and_network_of_libero_are_of_one_size():
    graph = Graph.load("libero_sim")
    spec = make_policy(graph.parameters("vla_policy")).spec
    efn = Efn.from_pretrained(CHECKPOINTS / "libero")
    assert (spec.horizon, spec.action_size, spec.latent) == (*efn.config.head_shape, efn.config.latent)
    assert (spec.horizon, spec.action_size, spec.proprio_size, spec.cameras) == (4, 7, 8, ("agentview", "wrist"))
    assert make_corrector(graph.parameters("efn_corrector")).limits.low.shape == (7,)


def test_it_is_small():
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < MOST_BYTES
    assert sum(path.stat().st_size for path in SEED_BANKS.rglob("*") if path.is_file()) < MOST_BYTES


def test_the_bank_holds_the_base_alone(bank):
    rollouts = BankReader(bank).snapshot().rollouts
    modes = np.concatenate([rollout.arrays.modes for rollout in rollouts])
    assert len(rollouts) == 8 and (modes == Mode.BASE).all()


def test_an_installed_network_has_a_card_and_loads(tmp_path):
    source = tmp_path / "round_0"
    shutil.copytree(PACKAGED, source)
    facts = {
        "config": asdict(TrainConfig("efn_training")),
        "updates": 10,
        "decisions": 100,
        "deployments": 4,
        "validated": 1,
        "parameters": 2_000_000,
        "minutes": 3.0,
        "validation": {"none": 0.25, **{f"volume_{size}": 0.125 / size for size in (1, 2, 4, 8)}, "trust_right": 0.9},
    }
    (source / "facts.json").write_text(json.dumps(facts))
    target = install(source, note="Only a copy.", target=tmp_path / "installed")
    LearnedResidual(target)
    text = (target / "README.md").read_text()
    assert "Only a copy." in text and "0.2500" in text and "1 deployment that" in text
    assert json.loads((target / "card.json").read_text())["training"] == json.loads(json.dumps(facts))
