# SPDX-License-Identifier: MIT
"""Checkpoints of the network: what was saved comes back, and what does not fit is named."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_networks import CONFIG, D, T, experiences, present, random_efn, recalled, trusting_efn
from sample_recalls import stack_experiences

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import recalled_of
from efn_ros.efn.checkpoint import FIELDS_BEFORE, TENSORS_BEFORE
from efn_ros.efn.config import WEIGHTS
from efn_ros.features.codes import SketchEncoder
from efn_ros.types import Quantised


@pytest.fixture
def efn() -> Efn:
    return random_efn()


def test_a_checkpoint_comes_back(efn, tmp_path):
    efn.save_pretrained(tmp_path)
    back = Efn.from_pretrained(tmp_path)
    assert back.config == efn.config and not back.training
    now, memory = present(), recalled()
    torch.testing.assert_close(back.residual(now, memory), efn.residual(now, memory), rtol=0, atol=0)


def test_a_checkpoint_that_is_none_or_does_not_fit_is_named(efn, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        Efn.from_pretrained(tmp_path)
    efn.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"width": 32', '"width": 64'))
    with pytest.raises(ValueError, match=r"does not fit its configuration: .* is \(.*\), not \(.*\)"):
        Efn.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"width"', '"depth"'))
    with pytest.raises(ValueError, match="no configuration of an EFN: .*depth"):
        Efn.from_pretrained(tmp_path)


def test_a_checkpoint_of_version_0_1_is_the_same_network(efn, tmp_path):
    """Its fields and tensors had other names."""
    trusting = trusting_efn(efn)
    trusting.save_pretrained(tmp_path)
    before = {now: name for name, now in FIELDS_BEFORE.items()}
    config = json.loads((tmp_path / "config.json").read_text())
    config = {before.get(name, name): value for name, value in config.items()}
    (tmp_path / "config.json").write_text(json.dumps(config | {"space": "action", "latent_bound": []}))
    weights = load_file(tmp_path / WEIGHTS)
    for old, new in TENSORS_BEFORE.items():
        plain = old.replace("\\.", ".").rstrip("$")
        weights = {re.sub(rf"^{re.escape(new)}", plain, name): tensor for name, tensor in weights.items()}
    save_file(weights, tmp_path / WEIGHTS)
    assert "nothing" in weights and any(name.startswith("trust.sight.") for name in weights)
    back = Efn.from_pretrained(tmp_path)
    assert back.config == trusting.config
    now, memory = present(), recalled()
    torch.testing.assert_close(back.residual(now, memory), trusting.residual(now, memory), rtol=0, atol=0)


def test_a_network_that_changes_latent_tokens_is_refused_with_the_experiment_that_reads_it(efn, tmp_path):
    efn.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"space": "latent", "latent_bound": [1.0] * 8}))
    with pytest.raises(ValueError, match="changes latent tokens, which only the experiment latent_residual does"):
        Efn.from_pretrained(tmp_path)


def test_what_a_recalled_step_saw_is_encoded_as_the_network_would(efn, tmp_path):
    sketches = [Quantised(np.full((T, D), i, np.int8), np.full(T, 0.1, np.float32)) for i in range(3)]
    tensors = torch.from_numpy(np.stack([sketch.dequantise() for sketch in sketches]))
    np.testing.assert_allclose(efn.codes(sketches), efn.code(tensors).detach(), atol=2e-3)
    efn.save_pretrained(tmp_path)
    loaded, plain = SketchEncoder.load(tmp_path / WEIGHTS), Efn(replace(CONFIG, code_size=0))
    assert loaded.identity == efn.codes.identity and plain.codes is None
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="contains no encoder; set codes to another EFN, or leave it empty"):
        SketchEncoder.load(tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="image codes of the recalled steps have 0 numbers; the EFN takes 3"):
        recalled_of(stack_experiences(replace(experiences(1)[0], code=np.zeros(0, np.float32))), CONFIG)
    assert recalled_of(experiences(1), plain.config).code.shape == (1, 1, 0)
