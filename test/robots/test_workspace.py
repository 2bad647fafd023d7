# SPDX-License-Identifier: MIT
"""Workspace: a posture is inside if and only if every bounded point is, and wider bounds forbid less."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from workspace_violations import positions, violations

from efn_ros.robots.agibot_g1 import JOINTS, READY, TIPS, WRISTS, load_arms
from efn_ros.robots.workspace import Workspace

thorough = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ARMS = load_arms()
LINKS = ARMS[0].links + ARMS[1].links
LOW, HIGH = (np.concatenate([getattr(arm, name) for arm in ARMS]) for name in ("low", "high"))


def make(**bounds) -> Workspace:
    return Workspace.create(ARMS, WRISTS, **bounds)


def points(posture) -> dict[str, np.ndarray]:
    return positions(make(), posture)


def within(point, box) -> bool:
    return all(box[axis] <= point[axis] <= box[axis + 3] for axis in range(3))


@st.composite
def boxes(draw):
    low = [draw(st.floats(-1.2, 0.8)) for _ in range(3)]
    return [*low, *(edge + draw(st.floats(0.05, 2.0)) for edge in low)]


bounds = st.fixed_dictionaries(
    {},
    optional={
        "box": boxes(),
        "keep_out": st.lists(boxes(), max_size=3).map(lambda boxes: sum(boxes, [])),
        "wrist_distance_m": st.floats(0, 1.5),
    },
)
postures = hnp.arrays(np.float64, (3, len(JOINTS)), elements=st.floats(-1.0, 1.0)).map(
    lambda share: np.where(share < 0, -share * LOW, share * HIGH)
)


# What is inside


@thorough
@given(bounds, postures)
def test_a_posture_is_inside_if_and_only_if_every_bounded_point_is(bounds, q):
    inside = make(**bounds).inside(q)
    for posture, found in zip(q, inside, strict=True):
        places = points(posture)
        keep_out = np.reshape(bounds.get("keep_out", []), (-1, 6))
        held = all(within(places[link], bounds["box"]) for link in (*WRISTS, *TIPS)) if "box" in bounds else True
        out = not any(within(place, box) for place in places.values() for box in keep_out)
        apart = np.linalg.norm(places[WRISTS[0]] - places[WRISTS[1]]) >= bounds.get("wrist_distance_m", 0.0)
        assert found == (held and out and apart)


@thorough
@given(bounds, postures)
def test_a_posture_is_inside_if_and_only_if_it_violates_no_bound(bounds, q):
    workspace = make(**bounds)
    outside = {int(re.match(r"posture\[(\d+)\]: ", line)[1]) for line in violations(workspace, q)}
    assert outside == set(np.flatnonzero(~workspace.inside(q)).tolist())


@thorough
@given(bounds, postures)
def test_many_postures_at_once_are_checked_as_one_by_one(bounds, q):
    workspace = make(**bounds)
    assert workspace.inside(q).tolist() == [bool(workspace.inside(row[None])[0]) for row in q]


@thorough
@given(boxes(), st.lists(st.floats(0, 1), min_size=6, max_size=6), postures)
def test_a_larger_box_forbids_less(box, more, q):
    larger = np.add(box, np.multiply(more, [-1, -1, -1, 1, 1, 1])).tolist()
    assert (make(box=larger).inside(q) >= make(box=box).inside(q)).all()


@thorough
@given(boxes(), boxes(), st.lists(st.floats(0, 1), min_size=6, max_size=6), postures)
def test_fewer_and_smaller_keep_out_boxes_forbid_less(first, second, more, q):
    larger = np.add(first, np.multiply(more, [-1, -1, -1, 1, 1, 1])).tolist()
    assert (make(keep_out=first).inside(q) >= make(keep_out=larger).inside(q)).all()
    assert (make(keep_out=first).inside(q) >= make(keep_out=first + second).inside(q)).all()


@thorough
@given(st.floats(0, 2), st.floats(0, 2), postures)
def test_a_smaller_distance_of_the_wrists_forbids_less(one, other, q):
    least, most = sorted((one, other))
    assert (make(wrist_distance_m=least).inside(q) >= make(wrist_distance_m=most).inside(q)).all()


def test_bounds_that_are_all_absent_forbid_nothing():
    q = np.random.default_rng(0).uniform(LOW, HIGH, (100, len(JOINTS)))
    assert make().inside(q).all() and violations(make(), q) == []


def test_a_box_may_be_open_on_a_side():
    below = make(box=[-np.inf, -np.inf, -np.inf, np.inf, np.inf, 0.5])
    assert below.inside([READY])[0]
    assert not make(box=[-np.inf, -np.inf, 0.5, np.inf, np.inf, np.inf]).inside([READY])[0]


@pytest.mark.parametrize(
    "bounds", [{}, {"box": [-9, -9, -9, 9, 9, 9]}, {"keep_out": [5, 5, 5, 6, 6, 6]}, {"wrist_distance_m": 0.1}]
)
@pytest.mark.parametrize("entry", range(len(JOINTS)))
def test_a_posture_with_nan_is_never_inside(bounds, entry):
    q = np.array([READY, READY])
    q[1, entry] = np.nan
    workspace = make(**bounds)
    assert workspace.inside(q).tolist() == [True, False]
    found = violations(workspace, q)
    assert found and all(line.startswith("posture[1]") for line in found)


# Which bounds are violated


def test_a_violation_names_bound_link_and_value():
    wrist, tip = (points(READY)[link] for link in (WRISTS[0], TIPS[1]))
    high = violations(make(box=[-1, -1, -1, 1, wrist[1] - 0.1, 1]), [READY])
    assert high == [f"posture[0]: arm_left_link7 is at y {wrist[1]:.4f} m, outside [-1.0, {wrist[1] - 0.1}]"]
    (entered,) = violations(make(keep_out=[9, 9, 9, 10, 10, 10, *(tip - 0.01), *(tip + 0.01)]), [READY])
    assert entered.startswith(f"posture[0]: {TIPS[1]} is at {tip.round(4).tolist()} m, in keep-out box 1 from [")
    apart = np.linalg.norm(wrist - points(READY)[WRISTS[1]])
    (near,) = violations(make(wrist_distance_m=0.7), [READY])
    assert near == f"posture[0]: arm_left_link7 and arm_right_link7 are {apart:.4f} m apart, less than 0.7"


@pytest.mark.parametrize("link", [*WRISTS, *TIPS])
def test_wrists_and_tips_stay_in_the_box_each_of_them(link):
    place = points(READY)[link]
    for box in ([*(place + 0.001), *(place + 9)], [*(place - 9), *(place - 0.001)]):
        found = violations(make(box=box), [READY])
        assert sum(line.startswith(f"posture[0]: {link} ") for line in found) == 3
        assert not make(box=box).inside([READY])[0]


def test_an_elbow_may_leave_the_box_and_may_not_enter_a_forbidden_zone():
    elbow = points(READY)["arm_left_link4"]
    around = [*(elbow - 0.02), *(elbow + 0.02)]
    assert make(box=[elbow[0] + 0.01, -1, -1, 1, 1, 1]).inside([READY])[0]
    assert not make(keep_out=around).inside([READY])[0]
    found = {re.search(r": (\w+) is at", line)[1] for line in violations(make(keep_out=around), [READY])}
    assert found == {"arm_left_link3", "arm_left_link4"}


# Invalid arguments


@pytest.mark.parametrize(
    "bounds, message",
    [
        ({"box": [0, 0, 0, 1, 1]}, "box has 5 numbers; a box has 6"),
        ({"box": [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3}, "box has 12 numbers; one box has 6"),
        ({"box": [0, 0, 0, 1, -1, 1]}, r"box reaches from \[0.0, 0.0, 0.0\] to \[1.0, -1.0, 1.0\]"),
        ({"box": [0, 0, 0, 1, np.nan, 1]}, "box reaches from .* nan"),
        ({"keep_out": [0, 0, 0, 1, 1, 1, 0]}, "keep_out has 7 numbers"),
        ({"keep_out": [0, 0, 0, 0, 1, 1]}, "keep_out reaches from"),
        ({"wrist_distance_m": -0.1}, "wrist_distance_m is -0.1"),
        ({"wrist_distance_m": np.nan}, "wrist_distance_m is nan"),
        ({"wrist_distance_m": np.inf}, "wrist_distance_m is inf"),
    ],
)
def test_an_invalid_bound_is_named(bounds, message):
    with pytest.raises(ValueError, match=message):
        make(**bounds)


def test_a_wrist_that_is_no_link_of_its_arm_is_named():
    with pytest.raises(
        ValueError, match="wrist 'arm_right_link7' is no link of its arm; choose one of arm_left_base_link"
    ):
        Workspace.create(ARMS, WRISTS[::-1])


@pytest.mark.parametrize("shape", [(14,), (1, 7), (1, 16)])
def test_postures_of_two_arms_have_all_their_joints(shape):
    with pytest.raises(ValueError, match=r"\(N, 14\) was expected"):
        make().inside(np.zeros(shape))
