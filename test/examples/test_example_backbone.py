# SPDX-License-Identifier: MIT
"""The example backbone: installed as pip installs it, found by its entry point, frozen and of the promised form."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from efn_ros.runtime.factory import make_inference
from efn_ros.runtime.graph import Graph
from efn_ros.types import Observation, StepContext

BACKBONE = Path(__file__).resolve().parents[2] / "examples" / "backbone"
MODULE = "efn_example_backbone"


@pytest.fixture(autouse=True)
def on_the_path(installed_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed_backbone))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.fixture
def parameters() -> dict:
    return Graph.load("metaworld_sim", [BACKBONE / "tiny_vla.yaml"]).parameters("vla_policy")


def observe(instruction: str = "reach the red ball", seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (96, 96, 3), np.uint8) for camera in ("left", "right")}
    return Observation(StepContext("e0", 0, 0, "reach", instruction), images, np.zeros(4, np.float32))


def test_the_factory_of_vla_policy_makes_it_and_inference_takes_its_output(parameters):
    inference = make_inference(parameters)
    step, spec = inference(observe()), inference.policy.spec
    assert type(inference.policy).__module__ == MODULE and spec.name == "tiny_vla"
    assert step.base.shape == (spec.horizon, spec.action_size) and np.abs(step.base).max() <= 1.0
    assert step.sketch.q.shape == (spec.tokens[0], parameters["descriptor_size"])
    assert step.policy == spec.fingerprint


def test_it_is_frozen_deterministic_and_depends_on_images_and_instruction(parameters):
    first, second = make_inference(parameters), make_inference(parameters)
    assert first.policy.spec == second.policy.spec
    base = first(observe()).base
    assert base.tobytes() == first(observe()).base.tobytes() == second(observe()).base.tobytes()
    assert base.tobytes() != first(observe(seed=1)).base.tobytes()
    assert base.tobytes() != first(observe("open the drawer")).base.tobytes()


def test_its_output_has_the_promised_form_and_decodes_to_its_action(parameters):
    policy = make_inference(parameters).policy
    output, spec = policy.infer(observe()), policy.spec
    assert output.latent.shape == spec.latent and output.visual.shape == spec.tokens
    assert {array.dtype for array in dataclasses.astuple(output)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(policy.decode(output.latent, output.visual), output.action)
    assert np.linalg.norm(policy.embed_instruction("reach")) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="tiny_vla takes"):
        policy.decode(output.latent[:1], output.visual)

    decoder = policy.decoder()
    assert decoder is not None and not any(p.requires_grad for p in decoder.parameters())
    latent = torch.from_numpy(output.latent)[None].requires_grad_()
    decoder(latent, torch.from_numpy(output.visual)[None]).sum().backward()
    assert latent.grad is not None and latent.grad.abs().max() > 0


def test_a_checkpoint_of_other_weights_has_another_fingerprint_and_a_missing_one_is_named(parameters, tmp_path):
    plain = make_inference(parameters).policy
    weights = {name: value + 0.01 for name, value in plain.decoder().state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = make_inference({**parameters, "checkpoint": str(tmp_path / "weights.safetensors")}).policy
    assert loaded.spec.fingerprint != plain.spec.fingerprint
    with pytest.raises(FileNotFoundError, match="no checkpoint of tiny_vla at .*nowhere"):
        make_inference({**parameters, "checkpoint": "nowhere"})
