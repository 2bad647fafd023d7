# SPDX-License-Identifier: MIT
"""An actor whose output is a change of latent tokens within a bound for each channel."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import CONFIG, DZ, L, present, recalled

from efn_ros.experiments.latent_residual.network import LatentEfn, LatentEfnConfig

LATENT_BOUND = tuple(0.1 * i for i in range(DZ))  # the first channel may not change at all
LATENT = LatentEfnConfig(**asdict(CONFIG), latent_bound=LATENT_BOUND)


def random_network(config) -> LatentEfn:
    torch.manual_seed(2)
    made = LatentEfn(config).eval()
    torch.nn.init.normal_(made.head.weight)
    return made


def test_the_output_is_a_change_of_the_tokens_and_zero_before_training():
    assert not LatentEfn(LATENT).residual(present(), recalled()).any()
    efn = random_network(LATENT)
    mean, log_std = efn(present(), recalled())
    change = efn.residual(present(), recalled())
    assert mean.shape == log_std.shape == change.shape == (5, L, DZ) and change.any()
    assert not efn.residual(present(), recalled(k=0)).any()


@settings(deadline=None, max_examples=30)
@given(st.floats(-(2.0**120), 2.0**120, width=32), st.integers(0, 2**32 - 1))
def test_a_channel_changes_by_no_more_than_its_bound(size, seed):
    mean = size * torch.randn(5, L, DZ, generator=torch.Generator().manual_seed(seed))
    change = LatentEfn(LATENT).bounded(mean, recalled())
    assert (change.abs() <= torch.tensor(LATENT_BOUND)).all() and not change[..., 0].any()


@pytest.mark.parametrize(
    "bound, words",
    [
        ((), "latent_bound has 0 entries, but a latent token has 8"),
        ((-1.0,) * DZ, "latent_bound is .* finite and at least 0"),
        ((np.inf,) * DZ, "latent_bound is .* finite and at least 0"),
        ((np.nan,) * DZ, "latent_bound is .* finite and at least 0"),
    ],
)
def test_a_bound_that_does_not_fit_is_refused_by_name(bound, words):
    with pytest.raises(ValueError, match=words):
        replace(LATENT, latent_bound=bound)


def test_a_checkpoint_is_restored(tmp_path):
    efn, inputs = random_network(LATENT), (present(), recalled())
    efn.save_pretrained(tmp_path)
    back = LatentEfn.from_pretrained(tmp_path)
    assert back.config == LATENT
    torch.testing.assert_close(back.residual(*inputs), efn.residual(*inputs), rtol=0, atol=0)


def test_a_checkpoint_of_version_0_1_is_read(tmp_path):
    """It named its space beside the bound."""
    efn = random_network(LATENT)
    efn.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"space": "latent"}))
    assert LatentEfn.from_pretrained(tmp_path).config == LATENT
