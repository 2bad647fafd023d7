# SPDX-License-Identifier: MIT
"""Fields of messages: arrays with the same bits and shapes, stamps to the nanosecond, positions of the named joints."""

import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from efn_ros.ros.fields import from_field, from_time, joint_positions, to_field, to_time

ODD = np.array([-0.0, 1e-45, -1e-45, 3.4028235e38, np.inf, -np.inf, np.nan, 0.1], np.float32)


# Arrays


@pytest.mark.parametrize("dtype, typecode", [(np.float32, "f"), (np.float64, "d"), (np.int8, "b"), (np.uint8, "B")])
def test_a_field_is_an_array_of_its_own_type(dtype, typecode):
    values = np.arange(12).astype(dtype).reshape(3, 4)
    for given_values in (values, values.T, values[::2], values[:, 1:3], values[0], values[0, 0], values[:0]):
        field = to_field(given_values)
        assert isinstance(field, array.array) and field.typecode == typecode
        assert field.tolist() == given_values.reshape(-1).tolist()
        back = from_field(field)
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, given_values.reshape(-1))


def test_a_field_keeps_the_bits_of_odd_numbers():
    assert from_field(to_field(ODD)).tobytes() == ODD.tobytes()


@pytest.mark.parametrize(
    "shape, expected",
    [((2, 6), (2, 6)), ((3, -1), (3, 4)), ((-1, 6), (2, 6)), ((-1,), (12,)), ((), (12,)), ((2, -1, 2), (2, 3, 2))],
)
def test_a_field_takes_the_given_shape(shape, expected):
    assert from_field(array.array("f", range(12)), *shape).shape == expected


@pytest.mark.parametrize("shape, expected", [((0, 3), (0, 3)), ((0, -1), (0, 0)), ((4, -1), (4, 0)), ((), (0,))])
def test_an_empty_field_has_a_shape_too(shape, expected):
    empty = from_field(array.array("f"), *shape)
    assert (empty.shape, empty.dtype) == (expected, np.float32)


@pytest.mark.parametrize("shape", [(2, 5), (5, -1), (0, -1), (0, 3), (13,), (2, 2, 2)])
def test_a_field_of_another_length_is_named(shape):
    with pytest.raises(ValueError, match=r"a field holds 12 numbers, but its shape is \("):
        from_field(array.array("f", range(12)), *shape)


@given(st.integers(-(2**31) * 10**9, (2**31) * 10**9 - 1))
def test_a_stamp_comes_back_to_the_nanosecond(stamp_ns):
    assert from_time(to_time(stamp_ns)) == stamp_ns


# Joints


@given(st.dictionaries(st.text("abcxyz", min_size=1), st.floats(-9, 9), min_size=1, max_size=6), st.data())
def test_positions_are_those_of_the_named_joints_in_their_order(joints, data):
    sent = JointState(name=list(joints), position=list(joints.values()))
    message = deserialize_message(serialize_message(sent), JointState)
    chosen = data.draw(st.lists(st.sampled_from(list(joints))))
    names, positions = joint_positions(message, chosen)
    assert names == (chosen or list(joints)) and positions.dtype == np.float32
    np.testing.assert_array_equal(positions, np.float32([joints[name] for name in names]))
    unnamed = joint_positions(JointState(position=message.position))
    assert unnamed[0] == list(range(len(joints)))


@pytest.mark.parametrize(
    ("fields", "joints", "error"),
    [
        ({}, (), "holds no positions"),
        ({"name": ["a"], "position": [1.0, 2.0]}, (), "has 1 names and 2 positions"),
        ({"name": ["a", "b"], "position": [1.0, 2.0]}, ["b", "c"], "lacks c; it has a, b"),
        ({"name": ["a", "b"], "position": [1.0, np.nan]}, (), "position 'b' is nan"),
        ({"position": [1.0, np.inf]}, (), "position 1 is inf"),
    ],
)
def test_incomplete_joint_states_are_refused(fields, joints, error):
    with pytest.raises(ValueError, match=error):
        joint_positions(JointState(**fields), joints)


def test_a_joint_that_is_not_finite_matters_only_if_it_is_selected():
    message = JointState(name=["a", "b"], position=[1.0, np.nan])
    assert joint_positions(message, ["a"])[1].tolist() == [1.0]
