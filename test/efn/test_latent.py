"""A residual in latent-token space: decoded by the frozen decoder, bounded channel by channel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.efn.latent import latent_bound, latent_residual
from efn_ros.policies import load_policy
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


def test_it_is_what_the_frozen_decoder_makes_of_the_changed_tokens(output):
    change = np.random.default_rng(1).normal(size=(L, DZ))
    residual = latent_residual(POLICY, output, change, np.full(DZ, 0.5))
    changed = (output.latent + 0.5 * np.tanh(change)).astype(np.float32)
    np.testing.assert_allclose(output.action + residual, POLICY.decode(changed, output.visual), atol=1e-6)
    assert residual.shape == output.action.shape and residual.dtype == np.float32 and residual.any()


def test_no_change_is_no_residual(output):
    assert not latent_residual(POLICY, output, np.zeros((L, DZ)), np.ones(DZ)).any()


@settings(deadline=None, max_examples=20)
@given(st.floats(-1e6, 1e6), st.integers(0, DZ - 1))
def test_a_channel_changes_by_no_more_than_its_bound(size, channel):
    class Noting:
        def decode(self, latent, visual):
            seen.append(latent)
            return np.zeros((2, 2), np.float32)

    seen, bound = [], np.zeros(DZ)
    bound[channel] = 0.25
    made = POLICY.infer(
        Observation(
            StepContext("e", 0, 0, "reach", "reach the goal"),
            {"left": np.zeros((32, 32, 3), np.uint8)},
            np.zeros(3, np.float32),
        )
    )
    latent_residual(Noting(), made, np.full((L, DZ), size), bound)
    change = np.abs(seen[0] - made.latent)
    assert change[:, channel].max() <= 0.25 + 1e-6 and not np.delete(change, channel, axis=1).any()


def test_a_bound_is_a_share_of_what_was_met():
    latents = np.random.default_rng(2).normal(size=(500, 3, 4)) * [1, 2, 3, 0]
    np.testing.assert_allclose(latent_bound(latents, 0.5), [0.5, 1.0, 1.5, 0.0], rtol=0.1)
    with pytest.raises(ValueError, match="share is -1; it must be finite and at least 0"):
        latent_bound(latents, -1)


@pytest.mark.parametrize(
    "change, bound, words",
    [
        (np.zeros((L, DZ + 1)), np.ones(DZ), "change has shape"),
        (np.zeros((L, DZ)), np.ones(1), "bound has shape"),
        (np.zeros((L, DZ)), np.full(DZ, -1.0), "bound is .* finite and at least 0"),
        (np.zeros((L, DZ)), np.full(DZ, np.inf), "bound is .* finite and at least 0"),
    ],
)
def test_what_does_not_fit_is_named(output, change, bound, words):
    with pytest.raises(ValueError, match=words):
        latent_residual(POLICY, output, change, bound)
