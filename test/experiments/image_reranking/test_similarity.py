"""Equations (33)-(39) against themselves written out in loops, and what holds whatever is compared."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efn_ros.experiments.image_reranking.similarity import (
    Box,
    additive,
    appearance,
    duplicates,
    gate,
    gated,
    image_similarity,
    relation,
    relation_features,
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


def drop_absent(terms, weights):
    """The convex combination of (36) or (38), one row, of what is there."""
    there = [(weight, term) for weight, term in zip(weights, terms, strict=True) if not math.isnan(term)]
    return sum(w * t for w, t in there) / sum(w for w, _ in there) if there else NAN


def assert_in_unit_interval(similarity, absent=False):
    assert similarity.dtype == np.float32 and similarity.shape == (N,)
    assert (((similarity >= 0) & (similarity <= 1)) | (absent & np.isnan(similarity))).all()


# (33) and (34)


@given(z=features, present=feature, text=feature)
def test_cosines_are_those_of_the_equations(z, present, text):
    def cosine(a, b):
        a, b = a.astype(float), b.astype(float)
        return (1 + a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b))) / 2 if a.any() and b.any() else 0.5

    alike, fits = appearance(z, present), gate(z, present, text)
    for i in range(N):
        np.testing.assert_allclose(alike[i], cosine(z[i], present), atol=1e-5)
        np.testing.assert_allclose(fits[i], min(cosine(z[i], text), cosine(present, text)), atol=1e-5)
    assert_in_unit_interval(alike)
    assert_in_unit_interval(fits)


@given(z=features, present=feature, text=feature)
def test_cosines_are_the_same_from_either_side(z, present, text):
    for i in range(N):
        assert appearance(z[i : i + 1], present) == appearance(present[None], z[i])
        assert gate(z[i : i + 1], present, text) == gate(present[None], z[i], text)


@given(z=features, present=feature)
def test_a_row_does_not_depend_on_which_others_are_there(z, present):
    together = appearance(z, present)
    np.testing.assert_array_equal(together, [appearance(z[i : i + 1], present)[0] for i in range(N)])


def test_the_gate_is_as_strict_as_the_worse_of_both_images():
    text, orthogonal = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    z = np.stack([text, orthogonal, -text])
    np.testing.assert_allclose(gate(z, text, text), [1, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(gate(z, orthogonal, text), [0.5, 0.5, 0], atol=1e-6)


def test_without_features_cosines_are_absent():
    nothing = np.zeros(0, np.float32)
    assert np.isnan(appearance(np.zeros((N, 0), np.float32), nothing)).all()
    assert np.isnan(gate(np.ones((N, DZ), np.float32), np.ones(DZ, np.float32), nothing)).all()


# (35) and its features


@given(r=relations, present=one_relation, sigma=st.tuples(*[st.floats(0.125, 2)] * K))
def test_the_kernel_is_that_of_the_equation_over_what_both_looks_tell(r, present, sigma):
    alike = relation(r, present, sigma)
    assert_in_unit_interval(alike, absent=True)
    for i in range(N):
        terms = [(float(a) - float(b)) ** 2 / (2 * s**2) for a, b, s in zip(r[i], present, sigma, strict=True)]
        there = [term for term in terms if not math.isnan(term)]
        np.testing.assert_allclose(alike[i], math.exp(-sum(there)) if there else NAN, atol=1e-5)
        np.testing.assert_array_equal(alike[i : i + 1], relation(present[None], r[i], sigma))


@given(
    present=arrays(np.float32, K, elements=unit_interval), entry=st.integers(0, K - 1), sign=st.sampled_from([-1, 1])
)
def test_the_kernel_is_one_at_the_same_relation_and_falls_as_an_entry_moves_away(present, entry, sign):
    r = np.tile(present, (N, 1))
    r[:, entry] += sign * np.linspace(0, 1, N, dtype=np.float32)
    alike = relation(r, present, 1 / 3)
    assert alike[0] == 1 and (np.diff(alike) < 0).all()


@pytest.mark.parametrize("sigma", [0.0, (1, 1, -1, 1), NAN])
def test_a_kernel_without_width_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma is .*; it must be above 0"):
        relation(np.ones((N, K), np.float32), np.ones(K, np.float32), sigma)


@given(gripper=boxes, target=boxes, opening=unit_interval)
def test_relation_features_are_bounded_and_the_same_from_either_side(gripper, target, opening):
    r = relation_features(gripper, target, (HEIGHT, WIDTH), opening)
    assert r.dtype == np.float32 and r.shape == (K,) and ((0 <= r) & (r <= 1)).all()
    nearness, overlap, contact, told = r
    assert contact >= overlap and told == np.float32(opening)
    assert contact == pytest.approx(np.clip(max(overlap, 1 - 3 * (1 - nearness)), 0, 1), abs=1e-6)
    np.testing.assert_array_equal(r, relation_features(target, gripper, (HEIGHT, WIDTH), opening))


@pytest.mark.parametrize(
    ("target", "nearness", "overlap", "contact"),
    [
        (Box(10, 10, 20, 20), 1, 1, 1),
        (Box(10, 15, 20, 25), 0.95, 1 / 3, 0.85),  # half of it covered, centres 5 pixels apart
        (Box(20, 10, 30, 20), 0.9, 0, 0.7),  # beside it
        (Box(40, 50, 50, 60), 0.5, 0, 0),  # half a diagonal away
    ],
)
def test_relation_features_of_boxes_that_can_be_worked_out_by_hand(target, nearness, overlap, contact):
    r = relation_features(Box(10, 10, 20, 20), target, (HEIGHT, WIDTH), 0.25)
    np.testing.assert_allclose(r, [nearness, overlap, contact, 0.25], atol=1e-6)


def test_boxes_without_an_area_do_not_overlap():
    point = Box(5, 5, 5, 5)
    np.testing.assert_allclose(relation_features(point, point, (HEIGHT, WIDTH)), [1, 0, 1, NAN])


@pytest.mark.parametrize(("gripper", "target"), [(None, Box(0, 0, 1, 1)), (Box(0, 0, 1, 1), None), (None, None)])
def test_a_missed_box_leaves_the_opening_alone(gripper, target):
    np.testing.assert_array_equal(relation_features(gripper, target, (HEIGHT, WIDTH), 0.5), [NAN, NAN, NAN, 0.5])
    assert np.isnan(relation_features(gripper, target, (HEIGHT, WIDTH))).all()


# (36) and (38)


@pytest.mark.parametrize("combine", [image_similarity, additive])
@given(a=cues, b=cues, c=cues, weights=weights)
def test_a_combination_is_convex_over_what_is_there(combine, a, b, c, weights):
    combined = combine(a, b, c, weights)
    assert_in_unit_interval(combined, absent=True)
    for i in range(N):
        np.testing.assert_allclose(combined[i], drop_absent((a[i], b[i], c[i]), weights), atol=1e-5)


@given(a=present_cues, b=present_cues, weights=weights)
def test_a_detector_that_misses_leaves_image_cosine_and_text_gate(a, b, weights):
    missed = np.full(N, NAN, np.float32)
    w, v, _ = weights
    np.testing.assert_array_equal(image_similarity(a, b, missed, weights), image_similarity(a, b, a, (w, v, 0)))


def test_only_the_rows_that_a_cue_is_absent_from_do_without_it():
    combined = image_similarity(np.ones(2), np.zeros(2), np.array([0, NAN]), (0.5, 0.25, 0.25))
    np.testing.assert_allclose(combined, [0.5, 2 / 3], atol=1e-6)


def test_a_cue_without_weight_is_as_good_as_absent():
    nothing, something = np.full(N, NAN), np.ones(N)
    assert np.isnan(image_similarity(nothing, something, nothing, (0.5, 0, 0.5))).all()


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -0.1, 0), (1, NAN, 0), (1, math.inf, 0), (1, 1)])
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights are \[.*; they must be 3, none negative, not all 0"):
        additive(np.ones(N), np.ones(N), np.ones(N), weights)


def test_looks_that_are_the_same_in_everything_are_alike():
    one = np.ones(N, np.float32)
    np.testing.assert_array_equal(image_similarity(one, one, one, (0.2, 0.3, 0.5)), one)
    np.testing.assert_array_equal(additive(one, one, one, (0.2, 0.3, 0.5)), one)


@given(image=cues)
def test_the_same_summary_is_the_same_image_whatever_its_cues_say(image):
    q = np.arange(N * 3).reshape(N, 3).astype(np.int8)
    expected = image.copy()
    expected[2] = 1
    np.testing.assert_array_equal(duplicates(image, q, q[2]), expected)
    assert duplicates(image, q, q[2]).dtype == np.float32


# (39)


@given(embed=present_cues, image=cues, act=cues, alpha=unit_interval, beta=st.floats(0, 0.5))
def test_the_gated_fusion_is_that_of_the_equation(embed, image, act, alpha, beta):
    fused = gated(embed, image, act, alpha=alpha, beta=beta)
    assert_in_unit_interval(fused)
    for i in range(N):
        passes = 1 if math.isnan(image[i]) else alpha + (1 - alpha) * float(image[i])
        expected = passes * float(embed[i]) + (0 if math.isnan(act[i]) else beta * float(act[i]))
        np.testing.assert_allclose(fused[i], min(expected, 1), atol=1e-5)


@given(embed=present_cues, image=cues, alpha=unit_interval)
def test_without_the_latent_cue_the_coarse_score_bounds_the_gated_one(embed, image, alpha):
    absent = np.full(N, NAN)
    fused = gated(embed, image, absent, alpha=alpha, beta=0.1)
    assert (fused <= embed + 1e-6).all()
    np.testing.assert_allclose(gated(embed, absent, absent, alpha=alpha, beta=0.1), embed, atol=1e-6)


@given(embed=present_cues, act=present_cues, alpha=unit_interval, low=unit_interval, high=unit_interval)
def test_a_better_image_never_lowers_a_score(embed, act, alpha, low, high):
    worse, better = (np.full(N, value, np.float32) for value in sorted((low, high)))
    assert (gated(embed, worse, act, alpha=alpha, beta=0.1) <= gated(embed, better, act, alpha=alpha, beta=0.1)).all()
    assert (additive(embed, worse, act, (1, 1, 1)) <= additive(embed, better, act, (1, 1, 1)) + 1e-6).all()


@pytest.mark.parametrize(
    ("options", "message"), [(dict(alpha=1.5, beta=0), "alpha is 1.5"), (dict(alpha=0, beta=-1), "beta is -1")]
)
def test_a_gate_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        gated(np.ones(N), np.ones(N), np.ones(N), **options)
