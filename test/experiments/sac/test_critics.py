# SPDX-License-Identifier: MIT
"""Critics of a residual: they read all inputs and share no weights."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_networks import CONFIG, A, H, each, present, random_efn, recalled

from efn_ros.efn.actor import Efn
from efn_ros.efn.checkpoint import FIELDS_BEFORE
from efn_ros.experiments.sac.critics import CRITICS, EfnCritics


@pytest.fixture
def efn() -> Efn:
    return random_efn()


@pytest.fixture
def critics() -> EfnCritics:
    torch.manual_seed(1)
    return EfnCritics(CONFIG, 3).eval()


def test_critics_read_every_input_and_the_residual(critics):
    present_, memory, action = present(), recalled(), torch.randn(5, H, A, requires_grad=True)
    inputs = [x.requires_grad_() for x in (*vars(present_).values(), *vars(memory).values()) if x.is_floating_point()]
    for i in range(critics.n):
        value = critics(present_, memory, action, members=torch.tensor([i]))
        gradients = torch.autograd.grad(value.sum(), [*inputs, action])
        assert value.shape == (1, 5) and all((g != 0).flatten(1).any(dim=1).all() for g in gradients)


def test_recalled_steps_are_a_set_and_padding_changes_nothing(critics):
    present_, memory, action = present(), recalled(), torch.randn(5, H, A)
    expected = critics(present_, memory, action)
    order = torch.randperm(6)
    torch.testing.assert_close(critics(present_, each(memory, lambda x: x[:, order]), action), expected)
    padded = each(memory, lambda x: torch.cat([x, x[:, :3]], dim=1))
    padded.mask[:, 6:] = False
    torch.testing.assert_close(critics(present_, padded, action), expected)


def test_critics_differ_and_can_be_evaluated_in_part(critics):
    present_, memory, action = present(), recalled(), torch.randn(5, H, A)
    values = critics(present_, memory, action)
    assert values.shape == (3, 5) and (values.std(dim=0) > 0).all()
    assert torch.equal(critics(present_, memory, action, members=torch.tensor([2, 0])), values[[2, 0]])


def test_a_dimension_without_a_residual_changes_no_value():
    critics = EfnCritics(replace(CONFIG, bound=(0.5, 0.0)))
    assert critics(present(), recalled(), torch.zeros(5, H, A)).isfinite().all()


def test_critics_are_stored_beside_the_actor(efn, critics, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        EfnCritics.from_pretrained(tmp_path)
    efn.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="critics.safetensors is missing"):
        EfnCritics.from_pretrained(tmp_path)
    critics.save_pretrained(tmp_path)
    back, present_, memory, action = EfnCritics.from_pretrained(tmp_path), present(), recalled(), torch.randn(5, H, A)
    assert back.n == 3 and torch.equal(back(present_, memory, action), critics(present_, memory, action))
    Efn(replace(CONFIG, width=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="critics.safetensors does not fit its configuration: members.0"):
        EfnCritics.from_pretrained(tmp_path)


def test_critics_of_version_0_1_are_the_same_critics(efn, critics, tmp_path):
    """A field of their configuration and a tensor of each had other names."""
    efn.save_pretrained(tmp_path)
    critics.save_pretrained(tmp_path)
    before = {now: name for name, now in FIELDS_BEFORE.items()}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({before.get(name, name): value for name, value in config.items()}))
    weights = load_file(tmp_path / CRITICS)
    weights = {name.replace(".null_token", ".nothing"): tensor for name, tensor in weights.items()}
    save_file(weights, tmp_path / CRITICS)
    assert "members.2.nothing" in weights
    back, present_, memory, action = EfnCritics.from_pretrained(tmp_path), present(), recalled(), torch.randn(5, H, A)
    assert torch.equal(back(present_, memory, action), critics(present_, memory, action))
