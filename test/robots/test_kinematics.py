# SPDX-License-Identifier: MIT
"""Kinematics: every link is where MuJoCo computes it from the same URDF, and an invalid chain is named."""

import mujoco
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efn_ros.robots.agibot_g1 import BASE, JOINTS, READY, TIPS, URDF, WRISTS, load_arms
from efn_ros.robots.kinematics import Chain

thorough = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
angles = st.floats(-3.2, 3.2)
INERTIA = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
LIMIT = '<limit lower="-2" upper="3" effort="1" velocity="1"/>'


def joint(kind="revolute", inner=LIMIT, name="elbow", parent="upper", child="lower") -> str:
    return f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>{inner}</joint>'


def urdf(*joints: str, links=("upper", "lower")) -> str:
    bodies = "".join(f'<link name="{link}">{INERTIA}</link>' for link in links)
    return f'<robot name="robot">{bodies}{"".join(joints)}</robot>'


@pytest.fixture
def load(tmp_path):
    def load(text: str, base="upper", tip="lower") -> Chain:
        path = tmp_path / "robot.urdf"
        path.write_text(text)
        return Chain.from_urdf(path, base, tip)

    return load


def reference(text: str, names, q: np.ndarray, base: str, links) -> np.ndarray:
    """Return the frames (N, links, 4, 4) by MuJoCo, of postures (N, J) of the joints `names`."""
    spec = mujoco.MjSpec.from_string(text)
    spec.compiler.fusestatic = False
    model = spec.compile()
    data = mujoco.MjData(model)
    places = [model.joint(name).qposadr[0] for name in names]

    def frame(link):
        frame = np.eye(4)
        frame[:3, :3], frame[:3, 3] = data.body(link).xmat.reshape(3, 3), data.body(link).xpos
        return frame

    frames = []
    for posture in q:
        data.qpos[places] = posture
        mujoco.mj_kinematics(model, data)
        frames.append([np.linalg.inv(frame(base)) @ frame(link) for link in links])
    return np.array(frames)


def numbers(values) -> str:
    return " ".join(f"{value:.9f}" for value in values)  # MuJoCo reads no numbers below those of normal precision


@st.composite
def chains(draw):
    """Draw a URDF of one to five joints of any kind in a row, and postures of it."""
    vector = st.tuples(*[st.floats(-1, 1)] * 3)
    axis = vector.filter(lambda axis: np.linalg.norm(axis) > 0.1)
    kinds = draw(st.lists(st.sampled_from(["revolute", "continuous", "prismatic", "fixed"]), min_size=1, max_size=5))
    joints = []
    for i, kind in enumerate(kinds):
        origin = f'<origin xyz="{numbers(draw(vector))}" rpy="{numbers(draw(st.tuples(*[angles] * 3)))}"/>'
        inner = origin + (f'<axis xyz="{numbers(draw(axis))}"/>{LIMIT}' if kind != "fixed" else "")
        joints.append(joint(kind, inner, f"joint{i}", f"link{i}", f"link{i + 1}"))
    moving = sum(kind != "fixed" for kind in kinds)
    q = draw(hnp.arrays(np.float64, (draw(st.integers(1, 3)), moving), elements=angles))
    return urdf(*joints, links=[f"link{i}" for i in range(len(kinds) + 1)]), q


# Positions of links


@thorough
@given(chains())
def test_every_link_is_where_mujoco_has_it(tmp_path_factory, drawn):
    text, q = drawn
    path = tmp_path_factory.mktemp("chain") / "chain.urdf"
    path.write_text(text)
    last = f"link{text.count('<joint')}"
    chain = Chain.from_urdf(path, "link0", last)
    expected = reference(text, chain.joints, q, "link0", chain.links)
    np.testing.assert_allclose(chain.frames(q), expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(chain.forward(q), chain.frames(q)[:, -1])
    np.testing.assert_array_equal(chain.positions(q), chain.frames(q)[:, :, :3, 3])


@thorough
@given(hnp.arrays(np.float64, (3, len(JOINTS)), elements=angles))
def test_both_arms_of_the_g1_are_where_mujoco_has_them(q):
    for arm, own in zip(load_arms(), np.split(q, 2, axis=1), strict=True):
        expected = reference(URDF.read_text(), arm.joints, own, BASE, arm.links)
        np.testing.assert_allclose(arm.frames(own), expected, rtol=0, atol=1e-9)


def test_many_postures_at_once_are_the_same_as_one_by_one():
    arm = load_arms()[0]
    q = np.random.default_rng(0).uniform(-1, 1, (20, 7))
    np.testing.assert_allclose(arm.frames(q), np.concatenate([arm.frames(row[None]) for row in q]), rtol=0, atol=1e-15)
    assert arm.frames(np.empty((0, 7))).shape == (0, len(arm.links), 4, 4)


def test_a_chain_ends_at_its_tip():
    arm = load_arms()[0]
    wrist = Chain.from_urdf(URDF, BASE, WRISTS[0])
    assert wrist.links == arm.links[: len(wrist.links)] and wrist.links[-1] == WRISTS[0]
    np.testing.assert_array_equal(wrist.forward([READY[:7]]), arm.frames([READY[:7]])[:, len(wrist.links) - 1])


def test_an_axis_that_is_not_given_is_x(load):
    chain = load(urdf(joint("prismatic")))
    np.testing.assert_array_equal(chain.positions([[0.5]]), [[[0.5, 0.0, 0.0]]])


# Published facts of the arms of the G1


def test_the_arms_have_the_sdk_s_joints_in_its_order_and_the_public_limits():
    left, right = load_arms()
    assert left.joints + right.joints == JOINTS
    np.testing.assert_array_equal(left.low, [-3.14, -2.09, -3.1, -1.48, -3.1, -1.74, -3.1])
    np.testing.assert_array_equal(left.high, [3.14, 1.48, 3.1, 1.48, 3.1, 1.74, 3.1])
    np.testing.assert_array_equal(right.low, np.where(np.arange(7) == 1, -1.48, left.low))
    np.testing.assert_array_equal(right.high, np.where(np.arange(7) == 1, 2.09, left.high))
    assert (left.links[-1], right.links[-1]) == TIPS


def test_arms_at_zero_are_stretched_out_to_the_sides_by_the_sum_of_their_links():
    """0.305 upper arm, 0.1975 forearm, 0.1805 wrist, 0.14308 gripper, after a shoulder that differs by side."""
    for arm, side, shoulder in zip(load_arms(), (1, -1), (0.025 + 0.1859, 0.025 + 0.188), strict=True):
        reach = shoulder + 0.305 + 0.1975 + 0.1805 + 0.14308
        np.testing.assert_allclose(arm.positions(np.zeros((1, 7)))[0, -1], [0.0, side * reach, 0.0], atol=1e-9)


def test_the_right_arm_mirrors_the_left_where_every_angle_has_the_other_sign():
    """Up to the 2.1 mm between their shoulders."""
    left, right = load_arms()
    q = np.random.default_rng(1).uniform(-1.4, 1.4, (50, 7))
    np.testing.assert_allclose(right.positions(-q), left.positions(q) * [1, -1, 1], rtol=0, atol=0.0022)


# Limits, and what is no chain


def test_limits_are_those_of_the_urdf_and_a_continuous_joint_has_none(load):
    chain = load(
        urdf(joint(), joint("continuous", "", "wrist", "lower", "hand"), links=["upper", "lower", "hand"]), tip="hand"
    )
    assert chain.low.tolist() == [-2.0, -np.inf] and chain.high.tolist() == [3.0, np.inf]


@pytest.mark.parametrize(
    "broken, message",
    [
        (joint("floating"), "'elbow' is of type 'floating'; a chain may have revolute, continuous, prismatic, fixed"),
        (joint(inner=LIMIT + '<mimic joint="other"/>'), "'elbow' mimics another"),
        (joint(inner=LIMIT + '<axis xyz="0 0 0"/>'), "'elbow' has the axis .* must not be zero"),
        (joint(inner=LIMIT + '<axis xyz="0 1"/>'), "'elbow': 'xyz' of <axis> is '0 1'; 3 numbers"),
        (joint(inner=LIMIT + '<origin xyz="0 0 high"/>'), "'elbow': 'xyz' of <origin> is '0 0 high'"),
        (joint(inner=LIMIT + '<origin rpy="0 0 nan"/>'), "'elbow': 'rpy' of <origin> is '0 0 nan'"),
        (joint(inner=""), "'elbow': 'lower' of <limit> is None"),
        (joint(inner='<limit lower="1" upper="-1"/>'), "'elbow' has the limits 1.0 and -1.0"),
        (joint(child="upper", parent="lower"), "no joints lead from link 'upper' to link 'lower'"),
        ('<joint name="elbow" type="fixed"><parent link="upper"/></joint>', "'elbow' has no <child>"),
    ],
)
def test_an_invalid_joint_is_named(load, broken, message):
    with pytest.raises(ValueError, match=message):
        load(urdf(broken))


def test_a_ring_of_links_is_no_chain(load):
    ring = urdf(
        joint(),
        joint(name="back", parent="lower", child="middle"),
        joint(name="on", parent="middle", child="lower"),
        links=["upper", "middle", "lower"],
    )
    with pytest.raises(ValueError, match="no joints lead from link 'upper' to link 'lower'"):
        load(ring)


@pytest.mark.parametrize("base, tip, missing", [("chest", "lower", "chest"), ("upper", "hand", "hand")])
def test_an_unknown_link_is_named_with_the_known_ones(load, base, tip, missing):
    with pytest.raises(ValueError, match=f"link '{missing}' is not in the URDF; choose one of upper, lower"):
        load(urdf(joint()), base, tip)


def test_an_empty_chain_is_refused(load):
    with pytest.raises(ValueError, match="'upper' is both base and tip"):
        load(urdf(joint()), "upper", "upper")


def test_a_file_that_is_not_xml_is_named(load):
    with pytest.raises(ValueError, match="robot.urdf is not XML"):
        load("<robot>")


@pytest.mark.parametrize("shape", [(7,), (1, 6), (1, 14), (1, 1, 7)])
def test_postures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"postures have shape .*; \(N, 7\) was expected"):
        load_arms()[0].forward(np.zeros(shape))
