# SPDX-License-Identifier: MIT
"""The key of a frame, equations (4) and (5)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efn_ros.features.keys import mean_latent, mean_max_key

tokens = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.floats(-10, 10, width=32))


def test_the_key_equals_the_equation_written_out():
    features = np.random.default_rng(0).standard_normal((5, 7))
    rows = [row / np.linalg.norm(row) for row in features]
    mean, highest = np.mean(rows, axis=0), np.max(rows, axis=0)
    fused = (mean / np.linalg.norm(mean) + highest / np.linalg.norm(highest)) / 2
    np.testing.assert_allclose(mean_max_key(features), fused / np.linalg.norm(fused), atol=1e-6)


@given(tokens)
def test_the_key_has_unit_norm_or_is_zero_and_is_never_nan(features):
    key = mean_max_key(features)
    assert key.dtype == np.float32 and key.shape == features.shape[1:]
    assert np.isfinite(key).all() and np.linalg.norm(key) <= 1 + 1e-5


def test_the_key_does_not_depend_on_the_order_or_the_norm_of_tokens():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((9, 12)).astype(np.float32)
    scaled = features[rng.permutation(9)] * rng.uniform(0.5, 2, (9, 1)).astype(np.float32)
    np.testing.assert_allclose(mean_max_key(scaled), mean_max_key(features), atol=1e-6)


def test_keys_of_a_batch_are_the_keys_of_its_frames():
    batch = np.random.default_rng(2).standard_normal((2, 3, 5, 7)).astype(np.float32)
    keys = mean_max_key(batch)
    assert keys.shape == (2, 3, 7)
    np.testing.assert_allclose(keys[1, 2], mean_max_key(batch[1, 2]), atol=1e-6)


def test_a_frame_of_zeros_has_a_zero_key():
    assert not mean_max_key(np.zeros((4, 6))).any()


@pytest.mark.parametrize("shape", [(0, 6), (6,)])
def test_refuses_a_frame_without_tokens(shape):
    with pytest.raises(ValueError, match="T >= 1"):
        mean_max_key(np.zeros(shape))


def test_the_latent_key_is_the_unit_mean_and_empty_without_tokens():
    latent = np.random.default_rng(3).standard_normal((5, 4, 6))
    mean = latent[2].mean(axis=0)
    np.testing.assert_allclose(mean_latent(latent)[2], mean / np.linalg.norm(mean), atol=1e-6)
    assert mean_latent(np.zeros((5, 0, 0))).shape == (5, 0)
