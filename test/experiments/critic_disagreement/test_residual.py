# SPDX-License-Identifier: MIT
"""A residual that is smaller where critics disagree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import CONFIG, experiences, random_efn, step

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import present_of, recalled_of
from efn_ros.experiments.critic_disagreement.residual import AttenuatedResidual, attenuation
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.types import Recall


@pytest.fixture
def efn() -> Efn:
    return random_efn()


@pytest.fixture
def critics() -> EfnCritics:
    torch.manual_seed(1)
    return EfnCritics(CONFIG, 3).eval()


def test_the_residual_is_smaller_where_critics_disagree(efn, critics, tmp_path):
    efn.save_pretrained(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="has no critics.safetensors; name a checkpoint of ./efn experiment sac"
    ):
        AttenuatedResidual(tmp_path, disagreement_scale=0.5)
    critics.save_pretrained(tmp_path)
    memory = experiences(4)
    observation = present_of(step()), recalled_of(memory, CONFIG)
    with torch.no_grad():
        whole = efn.residual(*observation)
        disagreement = critics(*observation, whole).std(dim=0, correction=0).item()
    for scale, share in ((disagreement, 0.5), (disagreement / 2, 0.25)):
        residual, reason, _ = AttenuatedResidual(tmp_path, disagreement_scale=scale)(
            step(), Recall(memory, selected=0, codes=efn.codes.identity)
        )
        np.testing.assert_allclose(residual, share * whole[0].numpy(), rtol=1e-5)
        assert reason == "" and residual.dtype == np.float32


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(tmp_path, scale):
    with pytest.raises(ValueError, match="disagreement_scale is .* above 0"):
        AttenuatedResidual(tmp_path, disagreement_scale=scale)


@settings(deadline=None)
@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1e-2, 1e3))
def test_the_factor_falls_with_disagreement(one, other, scale):
    low, high = attenuation(torch.tensor(sorted((one, other)), dtype=torch.float64), scale)
    assert 1 >= low >= high >= 0


def test_the_factor_is_one_at_zero_and_one_half_at_the_scale():
    assert attenuation(torch.tensor([0.0, 2.0, 1e9]), 2.0).tolist() == [1.0, 0.5, 0.0]
