# SPDX-License-Identifier: MIT
"""Random projection and quantisation, equations (30) and (31)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efn_ros.features.keys import mean_max_key
from efn_ros.features.sketches import Projection, quantise

rows = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-100, 100, width=32))


@given(rows)
def test_the_quantisation_error_is_at_most_half_a_step(vectors):
    quantised = quantise(vectors)
    assert quantised.q.dtype == np.int8 and quantised.scale.dtype == np.float32
    assert quantised.q.min() >= -127 and quantised.scale.shape == vectors.shape[:-1]
    error = np.abs(quantised.dequantise() - vectors)
    assert (error <= quantised.scale[:, None] * 0.5001).all()


def test_a_zero_row_stays_zero():
    quantised = quantise(np.zeros((2, 4)))
    assert not quantised.q.any() and np.isfinite(quantised.scale).all() and not quantised.dequantise().any()


@pytest.mark.parametrize("size", [64, 128, 256])
def test_cosines_are_preserved_within_the_johnson_lindenstrauss_bound(size):
    """The error of a cosine deviates by at most about 1 / sqrt(d); none of 500 pairs is beyond five times that."""
    rng = np.random.default_rng(size)
    first = rng.standard_normal((500, 384)).astype(np.float32)
    second = first * rng.uniform(-1, 1, (500, 1)).astype(np.float32) + rng.standard_normal((500, 384)).astype(
        np.float32
    )
    cosine = np.einsum("nd,nd->n", first, second) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    projection = Projection(384, size)
    projected = np.einsum("nd,nd->n", projection.sketch(first).dequantise(), projection.sketch(second).dequantise())
    assert np.abs(projected - cosine).max() < 5 / np.sqrt(size)
    assert np.std(projected - cosine) < 1.1 / np.sqrt(size)


def test_describe_projects_the_key_and_sketch_every_token():
    tokens = np.random.default_rng(0).standard_normal((6, 24)).astype(np.float32)
    projection = Projection(24, 16, seed=1)
    key, sketch = projection.describe(tokens), projection.sketch(tokens)
    assert key.q.shape == (16,) and isinstance(key.scale, np.ndarray) and key.scale.shape == ()
    assert sketch.q.shape == (6, 16) and sketch.scale.shape == (6,)
    for quantised, vector in ((key, mean_max_key(tokens)), (quantise(sketch.dequantise()[2]), tokens[2])):
        projected = vector @ projection.matrix
        np.testing.assert_allclose(quantised.dequantise(), projected / np.linalg.norm(projected), atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(sketch.dequantise(), axis=1), 1, atol=0.02)


def test_tokens_of_zeros_give_no_nan():
    projection = Projection(24, 16)
    for quantised in (projection.describe(np.zeros((3, 24))), projection.sketch(np.zeros((3, 24)))):
        assert np.isfinite(quantised.dequantise()).all() and not quantised.q.any()


def test_the_matrix_is_the_same_on_every_machine_and_with_every_numpy():
    """Banks outlive programs: this identity must never change."""
    assert Projection(24, 16, seed=3).identity == "signs-24x16-seed3-a0635ab1b3c0e35f"
    assert Projection(7, 5).matrix.shape == (7, 5)


def test_the_identity_depends_on_sizes_and_seed():
    made = [Projection(8, 4), Projection(8, 4, seed=1), Projection(4, 8), Projection(8, 5)]
    assert len({projection.identity for projection in made}) == 4
    assert Projection(8, 4).identity == made[0].identity


def test_the_matrix_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        Projection(8, 4).matrix[0, 0] = 0


def test_refuses_tokens_of_another_width_by_name():
    with pytest.raises(ValueError, match="9 channels; projection signs-8x4.* takes 8"):
        Projection(8, 4).sketch(np.zeros((2, 9)))


@pytest.mark.parametrize("arguments", [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_refuses_sizes_and_seeds_that_make_no_matrix(arguments):
    with pytest.raises(ValueError, match="must be at least"):
        Projection(*arguments)


def test_a_projection_is_made_from_its_identity():
    made = Projection(24, 16, seed=3)
    assert np.array_equal(Projection.from_identity(made.identity).matrix, made.matrix)
    for identity in ("signs-24x16-seed3-0000", "gauss-24x16-seed3-00", ""):
        with pytest.raises(ValueError, match="cannot be made by this efn_ros"):
            Projection.from_identity(identity)
