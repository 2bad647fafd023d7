# SPDX-License-Identifier: MIT
"""Types to messages, over the wire and back: the same bits and the same shapes."""

import array
import dataclasses

import numpy as np
import pytest
from efn_ros.msg import ActionChunk, CorrectedAction, QuantisedRows
from efn_ros.srv import RetrieveExperience
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.serialization import deserialize_message, serialize_message

from efn_ros import types
from efn_ros.ros import conversions
from efn_ros.ros.fields import from_time

thorough = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ODD = np.array([-0.0, 1e-45, -1e-45, 3.4028235e38, np.inf, -np.inf, np.nan, 0.1], np.float32)


def carried(message):
    """Return a message as a subscriber receives it."""
    return deserialize_message(serialize_message(message), type(message))


def assert_same(left, right, where=""):
    """Assert equal bits, shapes and types of numbers."""
    if dataclasses.is_dataclass(left):
        assert type(left) is type(right), where
        for field in dataclasses.fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name), f"{where}.{field.name}")
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}[{key!r}]")
    elif isinstance(left, tuple):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(left, (np.ndarray, np.generic)):
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        assert left.tobytes() == right.tobytes(), where
    else:
        assert left == right and type(left) is type(right), where


# Arbitrary values of every type


def bits(dtype, *shape):
    """An array of any bits."""
    unsigned = {1: np.uint8, 4: np.uint32, 8: np.uint64}[np.dtype(dtype).itemsize]
    return hnp.arrays(unsigned, shape, elements=hnp.from_dtype(np.dtype(unsigned))).map(lambda a: a.view(dtype))


def floats(*shape):
    return bits(np.float32, *shape)


sizes = st.integers(0, 4)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
doubles = st.floats(allow_nan=False)
contexts = st.builds(
    types.StepContext,
    episode_id=names,
    step=st.integers(0, 2**32 - 1),
    stamp_ns=st.integers(0, (2**31 - 1) * 10**9),
    task=names,
    instruction=names,
    seed=st.integers(0, 2**64 - 1),
    correct=st.booleans(),
    record=st.booleans(),
)


@st.composite
def quantised(draw, rows):
    width = draw(st.integers(1, 4))
    return types.Quantised(draw(bits(np.int8, rows, width)), draw(floats(rows)))


@st.composite
def observations(draw):
    cameras = draw(st.lists(names, unique=True, max_size=3))
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
    images = {camera: draw(bits(np.uint8, *draw(shapes), 3)) for camera in cameras}
    return types.Observation(draw(contexts), images, draw(floats(draw(sizes))))


@st.composite
def policy_steps(draw):
    key = draw(quantised(1))
    return types.PolicyStep(
        draw(contexts),
        base=draw(floats(draw(st.integers(1, 4)), draw(st.integers(1, 4)))),
        key=types.Quantised(key.q[0], key.scale[0]),
        sketch=draw(quantised(draw(sizes))),
        latent=draw(floats(draw(st.integers(1, 4)), draw(sizes))),
        instruction_embedding=draw(floats(draw(sizes))),
        proprio=draw(floats(draw(sizes))),
        policy=draw(names),
        projection=draw(names),
    )


@st.composite
def experiences(draw):
    count, numbers = draw(st.integers(0, 3)), st.integers(0, 2**32 - 1)
    if not count:
        return types.Experiences()
    chunk, proprio = (count, draw(st.integers(1, 3)), draw(st.integers(1, 3))), (count, draw(sizes))
    several = lambda values, dtype: np.array(draw(st.lists(values, min_size=count, max_size=count)), dtype)  # noqa: E731
    return types.Experiences(
        rollout_id=tuple(draw(st.lists(names, min_size=count, max_size=count))),
        step=several(numbers, np.uint32),
        instruction=tuple(draw(st.lists(names, min_size=count, max_size=count))),
        outcome=several(st.sampled_from(types.Outcome), np.uint8),
        rollout_length=several(numbers, np.uint32),
        executed=draw(floats(*chunk)),
        base=draw(floats(*chunk)),
        proprio=draw(floats(*proprio)),
        proprio_next=draw(floats(*proprio)),
        executed_before=draw(floats(*chunk)),
        proprio_before=draw(floats(*proprio)),
        latent=draw(floats(count, draw(sizes))),
        similarity=several(doubles, np.float64),
        score=several(doubles, np.float64),
        probability=several(doubles, np.float64),
        code=draw(floats(count, draw(st.integers(0, 3)))),
    )


@st.composite
def recalls(draw):
    steps = draw(experiences())
    with_tokens = draw(st.booleans())
    return types.Recall(
        steps=steps,
        selected=draw(st.integers(-1, len(steps) - 1)),
        sketch=draw(quantised(draw(st.integers(1, 3)))) if with_tokens else None,
        successor=draw(quantised(draw(st.integers(1, 3)))) if with_tokens else None,
        confidence=draw(doubles),
        success_probability=draw(st.none() | doubles),
        candidates=draw(st.integers(0, 2**32 - 1)),
        revision=draw(st.integers(0, 2**64 - 1)),
        reason=draw(names),
        codes=draw(names),
    )


@st.composite
def corrections(draw):
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return types.Correction(
        draw(contexts),
        base=draw(floats(*shape)),
        residual=draw(floats(*shape)),
        corrected=draw(floats(*shape)),
        confidence=draw(doubles),
        mode=draw(st.sampled_from(types.Mode)),
        reason=draw(names),
        rollout_id=draw(names),
        rollout_step=draw(st.integers(-(2**31), 2**31 - 1)),
        limited=draw(st.booleans()),
        proposed=draw(st.none() | floats(*shape)),
        clipped=draw(st.booleans()),
        exploration=draw(names),
        trust=draw(doubles),
        success_probability=draw(st.none() | doubles),
    )


# Round trips


@thorough
@given(contexts)
def test_a_context_comes_back(context):
    assert_same(conversions.context_from_msg(carried(conversions.context_to_msg(context))), context)


@thorough
@given(observations())
def test_an_observation_comes_back(observation):
    message = carried(conversions.observation_to_msg(observation, 5))
    assert_same(conversions.observation_from_msg(message), observation)
    assert from_time(message.created) == 5


@thorough
@given(policy_steps())
def test_a_policy_step_comes_back(step):
    message = carried(conversions.policy_step_to_msg(step, 5, 6))
    assert_same(conversions.policy_step_from_msg(message), step)
    assert (from_time(message.received), from_time(message.created)) == (5, 6)


@thorough
@given(experiences())
def test_experiences_come_back(steps):
    assert_same(conversions.experiences_from_msg(carried(conversions.experiences_to_msg(steps))), steps)


@thorough
@given(recalls())
def test_a_recall_comes_back(recall):
    response = carried(conversions.recall_to_response(recall, RetrieveExperience.Response()))
    assert_same(conversions.recall_from_response(response), recall)
    assert response.success == (recall.selected >= 0)


@thorough
@given(corrections())
def test_a_correction_comes_back(correction):
    message = carried(conversions.correction_to_msg(correction, 0.25, 5, 6))
    assert_same(conversions.correction_from_msg(message), correction)
    assert message.recall_s == 0.25
    assert (from_time(message.received), from_time(message.created)) == (5, 6)


def test_constants_of_a_correction_are_those_of_its_message():
    assert {mode.name: mode.value for mode in types.Mode} == {
        name: getattr(CorrectedAction, name) for name in ("CORRECTED", "BASE", "HOLD", "STOPPED", "SHADOW")
    }


def test_a_policy_step_without_latent_tokens_comes_back():
    zero = types.Quantised(np.zeros(4, np.int8), np.float32(1))
    sketch = types.Quantised(zero.q[None], np.ones(1, np.float32))
    empty = np.empty(0, np.float32)
    context = types.StepContext("e0", 0, 0, "reach", "reach the goal")
    step = types.PolicyStep(context, ODD.reshape(2, 4), zero, sketch, np.empty((0, 0), np.float32), empty, empty)
    assert_same(conversions.policy_step_from_msg(carried(conversions.policy_step_to_msg(step, 0, 0))), step)


def test_an_image_of_64_kilobytes_comes_back_exactly():
    image = np.random.default_rng(0).integers(0, 256, (128, 171, 3), np.uint8)
    context = types.StepContext("e0", 0, 0, "reach", "reach the goal")
    observation = types.Observation(context, {"head": image, "hand": image[::-1, ::-1]}, ODD)
    back = conversions.observation_from_msg(carried(conversions.observation_to_msg(observation, 0)))
    assert_same(back, dataclasses.replace(observation, images={k: v.copy() for k, v in observation.images.items()}))


# Messages that contradict themselves


def test_a_chunk_with_too_few_numbers_is_named():
    with pytest.raises(ValueError, match=r"a field holds 5 numbers, but its shape is \(2, 3\)"):
        conversions.chunk_from_msg(ActionChunk(horizon=2, action_size=3, data=array.array("f", range(5))))


@pytest.mark.parametrize("data, scale", [(7, 2), (8, 3)])
def test_another_number_of_rows_is_named(data, scale):
    rows = QuantisedRows(rows=2, width=4, data=array.array("b", range(data)), scale=array.array("f", range(scale)))
    with pytest.raises(ValueError, match=f"a field holds {data if data != 8 else scale} numbers"):
        conversions.rows_from_msg(rows)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_key_of_other_than_one_row_is_named(rows):
    message = QuantisedRows(rows=rows, width=1, data=array.array("b", [1] * rows), scale=array.array("f", [1] * rows))
    with pytest.raises(ValueError, match=f"a key holds {rows} rows"):
        conversions.row_from_msg(message)


def test_an_unknown_mode_is_named():
    context = types.StepContext("e0", 0, 0, "reach", "reach the goal")
    chunk = np.zeros((1, 1), np.float32)
    message = conversions.correction_to_msg(
        types.Correction(context, chunk, chunk, chunk, 0.0, types.Mode.BASE), 0.0, 0, 0
    )
    message.mode = 9
    with pytest.raises(ValueError, match="9 is not a valid Mode"):
        conversions.correction_from_msg(message)
