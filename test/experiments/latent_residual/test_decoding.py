# SPDX-License-Identifier: MIT
"""A change of latent tokens as a residual, and its bound."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efn_ros.experiments.latent_residual.decoding import latent_bound, latent_residual
from efn_ros.policies.registry import load_policy
from efn_ros.types import Observation, StepContext

POLICY = load_policy(
    "untrained", cameras=("left",), image_size=32, proprio_size=3, horizon=2, action_low=(-1.0,) * 2,
    action_high=(1.0,) * 2, proprio_mean=(0.0,) * 3, proprio_std=(1.0,) * 3, width=16, heads=2,
)  # fmt: skip
L, DZ = POLICY.spec.latent


@pytest.fixture(scope="module")
def output():
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    context = StepContext("e", 0, 0, "reach", "reach the goal")
    return POLICY.infer(Observation(context, {"left": image}, np.zeros(3, np.float32)))


def residual_of(output, change):
    return latent_residual(POLICY.decode, output.latent, output.visual, change)


def test_base_and_residual_are_the_decoded_changed_tokens(output):
    change = np.random.default_rng(1).normal(size=(L, DZ)).astype(np.float32)
    residual = residual_of(output, change)
    changed = POLICY.decode(output.latent + change, output.visual)
    np.testing.assert_allclose(output.action + residual, changed, atol=1e-6)
    assert residual.shape == output.action.shape and residual.dtype == np.float32 and residual.any()


def test_a_change_of_zero_is_a_residual_of_exactly_zero(output):
    assert not residual_of(output, np.zeros((L, DZ), np.float32)).any()
    latent, visual = torch.randn(7, L, DZ), torch.randn(7, *POLICY.spec.tokens)
    assert not latent_residual(POLICY.decoder(), latent, visual, torch.zeros_like(latent)).any()


def test_a_batch_of_tensors_equals_arrays_and_carries_gradients(output):
    change = torch.randn(3, L, DZ, requires_grad=True)
    latent, visual = (torch.from_numpy(part).expand(3, *part.shape) for part in (output.latent, output.visual))
    residual = latent_residual(POLICY.decoder(), latent, visual, change)
    for i in range(3):
        one = residual_of(output, change[i].detach().numpy())
        np.testing.assert_allclose(residual[i].detach().numpy(), one, atol=1e-6)
    residual.square().sum().backward()
    assert (change.grad != 0).all()


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float32, (L, DZ), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_base_and_residual_stay_within_the_range_of_actions(output, change):
    corrected = output.action + residual_of(output, change)
    assert (np.abs(corrected) <= 1 + 1e-6).all()


def test_a_change_of_another_shape_is_refused(output):
    with pytest.raises(ValueError, match=r"change has shape \(4, 17\); the latent tokens have \(4, 16\)"):
        residual_of(output, np.zeros((L, DZ + 1), np.float32))


def test_a_bound_is_a_share_of_the_standard_deviation():
    latents = np.random.default_rng(2).normal(size=(500, 3, 4)) * [1, 2, 3, 0]
    np.testing.assert_allclose(latent_bound(latents, 0.5), [0.5, 1.0, 1.5, 0.0], rtol=0.1)
    with pytest.raises(ValueError, match="share is -1; it must be finite and at least 0"):
        latent_bound(latents, -1)
