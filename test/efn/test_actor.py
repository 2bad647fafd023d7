# SPDX-License-Identifier: MIT
"""The EFN: a set goes in, a bounded residual comes out, and without memory there is none."""

from dataclasses import replace

import pytest
import torch
from sample_networks import CONFIG, A, H, each, present, random_efn, recalled

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present
from efn_ros.efn.config import SIZES


@pytest.fixture
def efn() -> Efn:
    return random_efn()


def test_a_network_that_is_untrained_leaves_the_base_alone():
    assert not Efn(CONFIG).residual(present(), recalled()).any()


def test_the_residual_is_within_its_bounds_whatever_comes_in(efn):
    wild = each(recalled(), lambda x: x * 1e4 if x.is_floating_point() else x)
    residual = efn.residual(present(), wild)
    assert residual.shape == (5, H, A) and residual.any()
    assert (residual.abs() <= torch.tensor(CONFIG.bound)).all()


def test_recalled_steps_are_a_set(efn):
    now, memory, order = present(), recalled(), torch.randperm(6)
    expected = efn.residual(now, memory)
    torch.testing.assert_close(efn.residual(now, each(memory, lambda x: x[:, order])), expected)


def test_padding_changes_nothing(efn):
    now, memory = present(), recalled()
    padded = each(memory, lambda x: torch.cat([x, x[:, :3]], dim=1))
    padded.mask[:, 6:] = False
    torch.testing.assert_close(efn.residual(now, padded), efn.residual(now, memory))


@pytest.mark.parametrize("k", [0, 6])
def test_without_memory_the_residual_is_exactly_zero(efn, k):
    memory = recalled(k=k)
    memory.mask[:] = False
    assert not efn.residual(present(), memory).any()


def test_a_no_memory_baseline_corrects_whatever_is_recalled(efn):
    blind = Efn(replace(CONFIG, use_memory=False)).eval()
    blind.load_state_dict(efn.state_dict())
    now = present()
    residual = blind.residual(now, recalled())
    assert residual.any()
    torch.testing.assert_close(blind.residual(now, recalled(k=0)), residual)


def test_one_by_one_is_the_same_as_a_batch(efn):
    now, memory = present(), recalled()
    together = efn.residual(now, memory)
    for i in range(5):
        one = Present(*(x[i : i + 1] for x in vars(now).values()))
        torch.testing.assert_close(efn.residual(one, each(memory, lambda x: x[i : i + 1])), together[i : i + 1])  # noqa: B023


def test_every_recalled_cue_and_the_present_step_matter(efn):
    now, memory = present(), recalled()
    expected = efn.residual(now, memory)
    for name in (*MOTION, "base", "latent", "code", "success", "similarity"):
        changed = replace(memory, **{name: getattr(memory, name) + 1})
        if name == "latent":  # a shift of all channels is normalised away
            changed = replace(memory, latent=memory.latent.flip(-1))
        assert not torch.allclose(efn.residual(now, changed), expected), name
    for name in ("latent", "sketch", "proprio", "base"):
        changed = replace(now, **{name: getattr(now, name).flip(-1)})
        assert not torch.allclose(efn.residual(changed, memory), expected), name


def test_gradients_reach_every_parameter(efn):
    features = efn.features(present(), recalled())
    mean, log_std = efn.distribution(features)
    (mean.sum() + log_std.sum() + efn.identify(features).sum()).backward()
    silent = [name for name, p in efn.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_the_papers_size_is_that_of_its_appendix():
    paper = SIZES["paper"]
    assert paper == {"width": 1024, "heads": 16, "layers": 2, "feedforward": 4096}


def test_a_bound_for_each_entry_of_an_action_is_asked_for():
    with pytest.raises(ValueError, match="bound has 1 entries, but an action has 2"):
        replace(CONFIG, bound=(0.5,))
