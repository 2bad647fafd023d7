# SPDX-License-Identifier: MIT
"""Deployments: drawn within their bounds, alike for the same seed, and nothing at strength zero."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efn_ros.worlds.deployment import (
    CAMERA_KINDS,
    KINDS,
    MAX_CAMERA_SHIFT_M,
    MAX_CAMERA_TURN_RAD,
    MAX_GAIN_LOG,
    MAX_LATENCY_STEPS,
    MAX_LIGHT_LOG,
    MAX_OFFSET,
    MAX_YAW_RAD,
    MAX_ZOOM_LOG,
    SAMPLED,
    Deployment,
    sample_strengths,
)
from efn_ros.worlds.registry import make_world

# The fields that each kind of shift sets.
FIELDS = {
    "offset": ("offset",),
    "gain": ("gain",),
    "yaw": ("yaw_rad",),
    "camera": ("camera_shift_m", "camera_turn_rad"),
    "zoom": ("zoom",),
    "light": ("light", "tint"),
    "latency": ("latency_steps",),
}
seeds = st.integers(0, 2**32 - 1)
strengths = st.floats(0, 1)


def fields(deployment: Deployment, kind: str) -> list:
    return [getattr(deployment, name) for name in FIELDS[kind]]


@given(seeds, strengths)
def test_every_shift_has_half_to_all_of_its_strength(seed, strength):
    drawn = Deployment.draw(seed, dict.fromkeys(KINDS, strength))
    sizes = {
        "offset": np.linalg.norm(drawn.offset[:2]) / MAX_OFFSET,
        "gain": abs(math.log(drawn.gain)) / MAX_GAIN_LOG,
        "yaw": abs(drawn.yaw_rad) / MAX_YAW_RAD,
        "shift": np.linalg.norm(drawn.camera_shift_m) / MAX_CAMERA_SHIFT_M,
        "turn": np.linalg.norm(drawn.camera_turn_rad) / MAX_CAMERA_TURN_RAD,
        "zoom": abs(math.log(drawn.zoom)) / MAX_ZOOM_LOG,
        "light": abs(math.log(drawn.light)) / MAX_LIGHT_LOG,
    }
    for name, size in sizes.items():
        assert 0.5 * strength - 1e-9 <= size <= strength + 1e-9, name
    assert abs(drawn.offset[2]) <= 0.7 * strength * MAX_OFFSET
    assert np.all(np.abs(np.log(drawn.tint)) <= 0.3 * strength * MAX_LIGHT_LOG + 1e-9)
    assert 0 <= drawn.latency_steps <= MAX_LATENCY_STEPS
    assert (drawn.latency_steps > 0) == (strength > 0)


@given(seeds, st.dictionaries(st.sampled_from(KINDS), strengths))
def test_a_draw_depends_on_its_seed_and_kind_alone(seed, chosen):
    drawn = Deployment.draw(seed, chosen)
    assert drawn == Deployment.draw(seed, dict(reversed(chosen.items())))
    for kind in KINDS:
        alone = Deployment.draw(seed, {kind: chosen[kind]}) if kind in chosen else Deployment()
        assert fields(drawn, kind) == fields(alone, kind)


@given(seeds)
def test_strength_zero_is_the_condition_of_training(seed):
    assert Deployment.draw(seed, dict.fromkeys(KINDS, 0.0)) == Deployment.draw(seed, {}) == Deployment()


def test_seeds_differ():
    drawn = [Deployment.draw(seed, dict.fromkeys(KINDS, 1.0)) for seed in range(20)]
    assert len(set(drawn)) == 20
    assert len({math.copysign(1, d.yaw_rad) for d in drawn}) == 2


def test_a_sampled_deployment_has_one_to_three_kinds_of_shift_of_some_strength():
    drawn = [sample_strengths(seed) for seed in range(200)]
    assert Deployment.sample(7) == Deployment.draw(7, drawn[7])
    assert {kind for strengths in drawn for kind in strengths} == set(SAMPLED)
    assert {len(strengths) for strengths in drawn} == {1, 2, 3}
    assert all(0.3 <= strength <= 1.0 for strengths in drawn for strength in strengths.values())


def test_a_deployment_may_be_sampled_of_some_kinds_alone():
    arm = ("offset", "gain")
    drawn = [sample_strengths(seed, arm) for seed in range(100)]
    assert {kind for strengths in drawn for kind in strengths} == set(arm)
    assert {len(strengths) for strengths in drawn} == {1, 2}
    assert Deployment.sample(7, arm) == Deployment.draw(7, drawn[7])
    assert Deployment.sample(7, SAMPLED) == Deployment.sample(7)


@given(seeds)
def test_with_nominal_cameras_the_arm_stays_the_same(seed):
    drawn = Deployment.draw(seed, dict.fromkeys(KINDS, 1.0))
    arm = Deployment.draw(seed, dict.fromkeys(set(KINDS) - set(CAMERA_KINDS), 1.0))
    assert drawn.with_nominal_cameras() == arm != drawn
    assert arm.with_nominal_cameras() == arm


@given(seeds)
def test_the_coordinates_are_shares_of_the_strongest_shift(seed):
    assert not Deployment().coordinates().any()
    drawn = Deployment.draw(seed, dict.fromkeys(KINDS, 1.0))
    expected = [
        *np.divide(drawn.offset, MAX_OFFSET), math.log(drawn.gain) / MAX_GAIN_LOG, drawn.yaw_rad / MAX_YAW_RAD,
        *np.divide(drawn.camera_shift_m, MAX_CAMERA_SHIFT_M), *np.divide(drawn.camera_turn_rad, MAX_CAMERA_TURN_RAD),
        math.log(drawn.zoom) / MAX_ZOOM_LOG, math.log(drawn.light) / MAX_LIGHT_LOG,
    ]  # fmt: skip
    np.testing.assert_allclose(drawn.coordinates(), expected, atol=1e-6)
    assert (np.abs(drawn.coordinates()) <= 1 + 1e-6).all()


@given(seeds)
def test_with_shifted_cameras_the_arm_stays_the_same(seed):
    drawn = Deployment.draw(seed, dict.fromkeys(KINDS, 1.0))
    other = drawn.with_other_cameras(seed)
    assert other == drawn.with_other_cameras(seed)
    for name in ("offset", "gain", "yaw_rad", "latency_steps"):
        assert getattr(other, name) == getattr(drawn, name)
    assert other.camera_shift_m != drawn.camera_shift_m


@given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(-math.pi, math.pi), st.floats(0.5, 2))
def test_a_move_is_scaled_then_turned_then_offset(translation, yaw, gain):
    offset = (0.1, -0.2, 0.3)
    moved = Deployment(offset=offset, yaw_rad=yaw, gain=gain).move(np.array(translation)) - offset
    turned = gain * complex(*translation[:2]) * complex(math.cos(yaw), math.sin(yaw))
    np.testing.assert_allclose(moved, [turned.real, turned.imag, gain * translation[2]], atol=1e-12)


@given(
    hnp.arrays(np.float64, (3, 3), elements=st.floats(-1, 1)), st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1)
)
def test_undoing_is_the_inverse_of_moving(motions, seed, strength, turn):
    shift = Deployment.draw(seed, {"offset": strength, "gain": strength, "yaw": turn})
    moved = np.stack([shift.move(command) for command in shift.inverse(motions)])
    np.testing.assert_allclose(moved, motions, atol=1e-12)


@given(st.tuples(*[st.floats(-1, 1)] * 3))
def test_without_shifts_a_move_is_exact(translation):
    np.testing.assert_array_equal(Deployment().move(np.array(translation)), translation)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'wind' is unknown; choose from offset, .*latency"):
        Deployment.draw(0, {"wind": 0.5})


@pytest.mark.parametrize("strength", [-0.1, 1.01, math.nan, math.inf])
def test_a_strength_out_of_range_is_named(strength):
    with pytest.raises(ValueError, match=f"'yaw' is {strength}, outside"):
        Deployment.draw(0, {"yaw": strength})


def test_an_unknown_world_is_named():
    with pytest.raises(ValueError, match="world 'mars' is unknown; choose 'metaworld' or 'libero'"):
        make_world("mars")
