# SPDX-License-Identifier: MIT
"""Equations (33) to (39) against loops, and properties that hold for any input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efn_ros.experiments.image_reranking.similarity import (
    Box,
    appearance_similarity,
    convex_combination,
    gated_fusion,
    image_similarity,
    instruction_gate,
    relation_features,
    relation_similarity,
    set_duplicates,
)

NAN = math.nan
N, DZ, K = 5, 6, 4
HEIGHT, WIDTH = 60, 80  # a diagonal of 100 pixels

number = st.integers(-9, 9).map(float)
unit_interval = st.floats(0, 1, width=32)
cue = unit_interval | st.just(NAN)
features, feature = arrays(np.float32, (N, DZ), elements=number), arrays(np.float32, DZ, elements=number)
relations, one_relation = arrays(np.float32, (N, K), elements=cue), arrays(np.float32, K, elements=cue)
cues, present_cues = arrays(np.float32, N, elements=cue), arrays(np.float32, N, elements=unit_interval)
weights = st.tuples(*[st.floats(0.125, 1)] * 3)
x, y = st.integers(0, WIDTH), st.integers(0, HEIGHT)
boxes = st.builds(lambda a, b, c, d: Box(min(a, c), min(b, d), max(a, c), max(b, d)), x, y, x, y)


def mean_of_present(terms, weights):
    """The convex combination of (36), one row, over the terms that are present."""
    present = [(weight, term) for weight, term in zip(weights, terms, strict=True) if not math.isnan(term)]
    return sum(w * t for w, t in present) / sum(w for w, _ in present) if present else NAN


def assert_in_unit_interval(similarity, absent=False):
    assert similarity.dtype == np.float32 and similarity.shape == (N,)
    assert (((similarity >= 0) & (similarity <= 1)) | (absent & np.isnan(similarity))).all()


# (33) and (34)


@given(z=features, present=feature, text=feature)
def test_cosines_are_those_of_the_equations(z, present, text):
    def cosine(a, b):
        a, b = a.astype(float), b.astype(float)
        return (1 + a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b))) / 2 if a.any() and b.any() else 0.5

    similarity, fit = appearance_similarity(z, present), instruction_gate(z, present, text)
    for i in range(N):
        np.testing.assert_allclose(similarity[i], cosine(z[i], present), atol=1e-5)
        np.testing.assert_allclose(fit[i], min(cosine(z[i], text), cosine(present, text)), atol=1e-5)
    assert_in_unit_interval(similarity)
    assert_in_unit_interval(fit)


@given(z=features, present=feature, text=feature)
def test_cosines_are_symmetric(z, present, text):
    for i in range(N):
        assert appearance_similarity(z[i : i + 1], present) == appearance_similarity(present[None], z[i])
        assert instruction_gate(z[i : i + 1], present, text) == instruction_gate(present[None], z[i], text)


@given(z=features, present=feature)
def test_a_row_does_not_depend_on_the_others(z, present):
    together = appearance_similarity(z, present)
    np.testing.assert_array_equal(together, [appearance_similarity(z[i : i + 1], present)[0] for i in range(N)])


def test_the_gate_is_that_of_the_less_similar_image():
    text, orthogonal = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    z = np.stack([text, orthogonal, -text])
    np.testing.assert_allclose(instruction_gate(z, text, text), [1, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(instruction_gate(z, orthogonal, text), [0.5, 0.5, 0], atol=1e-6)


def test_without_features_cosines_are_absent():
    empty = np.zeros(0, np.float32)
    assert np.isnan(appearance_similarity(np.zeros((N, 0), np.float32), empty)).all()
    assert np.isnan(instruction_gate(np.ones((N, DZ), np.float32), np.ones(DZ, np.float32), empty)).all()


# (35) and its features


@given(r=relations, present=one_relation, sigma=st.tuples(*[st.floats(0.125, 2)] * K))
def test_the_kernel_is_that_of_the_equation_over_entries_that_both_images_have(r, present, sigma):
    similarity = relation_similarity(r, present, sigma)
    assert_in_unit_interval(similarity, absent=True)
    for i in range(N):
        terms = [(float(a) - float(b)) ** 2 / (2 * s**2) for a, b, s in zip(r[i], present, sigma, strict=True)]
        shared = [term for term in terms if not math.isnan(term)]
        np.testing.assert_allclose(similarity[i], math.exp(-sum(shared)) if shared else NAN, atol=1e-5)
        np.testing.assert_array_equal(similarity[i : i + 1], relation_similarity(present[None], r[i], sigma))


@given(
    present=arrays(np.float32, K, elements=unit_interval), entry=st.integers(0, K - 1), sign=st.sampled_from([-1, 1])
)
def test_the_kernel_is_one_at_the_same_relation_and_falls_as_an_entry_moves_away(present, entry, sign):
    r = np.tile(present, (N, 1))
    r[:, entry] += sign * np.linspace(0, 1, N, dtype=np.float32)
    similarity = relation_similarity(r, present, 1 / 3)
    assert similarity[0] == 1 and (np.diff(similarity) < 0).all()


@pytest.mark.parametrize("sigma", [0.0, (1, 1, -1, 1), NAN])
def test_a_kernel_without_width_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma is .*; it must be above 0"):
        relation_similarity(np.ones((N, K), np.float32), np.ones(K, np.float32), sigma)


@given(gripper=boxes, target=boxes, opening=unit_interval)
def test_relation_features_are_bounded_and_symmetric(gripper, target, opening):
    r = relation_features(gripper, target, (HEIGHT, WIDTH), opening)
    assert r.dtype == np.float32 and r.shape == (K,) and ((0 <= r) & (r <= 1)).all()
    proximity, overlap, contact, measured = r
    assert contact >= overlap and measured == np.float32(opening)
    assert contact == pytest.approx(np.clip(max(overlap, 1 - 3 * (1 - proximity)), 0, 1), abs=1e-6)
    np.testing.assert_array_equal(r, relation_features(target, gripper, (HEIGHT, WIDTH), opening))


@pytest.mark.parametrize(
    ("target", "proximity", "overlap", "contact"),
    [
        (Box(10, 10, 20, 20), 1, 1, 1),
        (Box(10, 15, 20, 25), 0.95, 1 / 3, 0.85),  # half of it covered, centres 5 pixels apart
        (Box(20, 10, 30, 20), 0.9, 0, 0.7),  # beside it
        (Box(40, 50, 50, 60), 0.5, 0, 0),  # half a diagonal away
    ],
)
def test_relation_features_of_boxes_computed_by_hand(target, proximity, overlap, contact):
    r = relation_features(Box(10, 10, 20, 20), target, (HEIGHT, WIDTH), 0.25)
    np.testing.assert_allclose(r, [proximity, overlap, contact, 0.25], atol=1e-6)


def test_boxes_without_an_area_do_not_overlap():
    point = Box(5, 5, 5, 5)
    np.testing.assert_allclose(relation_features(point, point, (HEIGHT, WIDTH)), [1, 0, 1, NAN])


@pytest.mark.parametrize(("gripper", "target"), [(None, Box(0, 0, 1, 1)), (Box(0, 0, 1, 1), None), (None, None)])
def test_without_a_box_only_the_opening_is_left(gripper, target):
    np.testing.assert_array_equal(relation_features(gripper, target, (HEIGHT, WIDTH), 0.5), [NAN, NAN, NAN, 0.5])
    assert np.isnan(relation_features(gripper, target, (HEIGHT, WIDTH))).all()


# (36)


@given(a=cues, b=cues, c=cues, weights=weights)
def test_a_combination_is_convex_over_the_present_cues(a, b, c, weights):
    combined = image_similarity(a, b, c, weights)
    assert_in_unit_interval(combined, absent=True)
    for i in range(N):
        np.testing.assert_allclose(combined[i], mean_of_present((a[i], b[i], c[i]), weights), atol=1e-5)


@given(a=present_cues, b=present_cues, weights=weights)
def test_a_missed_detection_leaves_appearance_and_gate(a, b, weights):
    missed = np.full(N, NAN, np.float32)
    w, v, _ = weights
    np.testing.assert_array_equal(image_similarity(a, b, missed, weights), image_similarity(a, b, a, (w, v, 0)))


def test_an_absent_cue_changes_only_its_row():
    combined = image_similarity(np.ones(2), np.zeros(2), np.array([0, NAN]), (0.5, 0.25, 0.25))
    np.testing.assert_allclose(combined, [0.5, 2 / 3], atol=1e-6)


def test_a_cue_without_weight_counts_as_absent():
    absent, one = np.full(N, NAN), np.ones(N)
    assert np.isnan(image_similarity(absent, one, absent, (0.5, 0, 0.5))).all()


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -0.1, 0), (1, NAN, 0), (1, math.inf, 0), (1, 1)])
def test_weights_without_a_mean_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights are \[.*; they must be 3, none negative, not all 0"):
        image_similarity(np.ones(N), np.ones(N), np.ones(N), weights)


def test_images_with_equal_cues_have_a_similarity_of_one():
    one = np.ones(N, np.float32)
    np.testing.assert_array_equal(image_similarity(one, one, one, (0.2, 0.3, 0.5)), one)


@given(image=cues)
def test_a_step_with_the_same_visual_key_has_a_similarity_of_one(image):
    q = np.arange(N * 3).reshape(N, 3).astype(np.int8)
    expected = image.copy()
    expected[2] = 1
    np.testing.assert_array_equal(set_duplicates(image, q, q[2]), expected)
    assert set_duplicates(image, q, q[2]).dtype == np.float32


# (39)


@given(embed=present_cues, image=cues, act=cues, alpha=unit_interval, beta=st.floats(0, 0.5))
def test_the_gated_fusion_is_that_of_the_equation(embed, image, act, alpha, beta):
    fused = gated_fusion(embed, image, act, alpha=alpha, beta=beta)
    assert_in_unit_interval(fused)
    for i in range(N):
        factor = 1 if math.isnan(image[i]) else alpha + (1 - alpha) * float(image[i])
        expected = factor * float(embed[i]) + (0 if math.isnan(act[i]) else beta * float(act[i]))
        np.testing.assert_allclose(fused[i], min(expected, 1), atol=1e-5)


@given(embed=present_cues, image=cues, alpha=unit_interval)
def test_without_the_latent_cue_the_coarse_score_bounds_the_gated_one(embed, image, alpha):
    absent = np.full(N, NAN)
    fused = gated_fusion(embed, image, absent, alpha=alpha, beta=0.1)
    assert (fused <= embed + 1e-6).all()
    np.testing.assert_allclose(gated_fusion(embed, absent, absent, alpha=alpha, beta=0.1), embed, atol=1e-6)


@given(embed=present_cues, act=present_cues, alpha=unit_interval, low=unit_interval, high=unit_interval)
def test_a_better_image_never_lowers_a_score(embed, act, alpha, low, high):
    worse, better = (np.full(N, value, np.float32) for value in sorted((low, high)))
    assert (
        gated_fusion(embed, worse, act, alpha=alpha, beta=0.1)
        <= gated_fusion(embed, better, act, alpha=alpha, beta=0.1)
    ).all()
    low_, high_ = (convex_combination((embed, image, act), (1, 1, 1)) for image in (worse, better))
    assert (low_ <= high_ + 1e-6).all()


@pytest.mark.parametrize(
    ("options", "message"), [(dict(alpha=1.5, beta=0), "alpha is 1.5"), (dict(alpha=0, beta=-1), "beta is -1")]
)
def test_a_gate_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        gated_fusion(np.ones(N), np.ones(N), np.ones(N), **options)
