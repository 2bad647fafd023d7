# SPDX-License-Identifier: MIT
"""Payloads: blank steps, successors, stored corrections, and single images."""

import dataclasses
import json

import numpy as np
import pytest
from sample_rollouts import make_rollout

from efn_ros.bank.format.codec import decode, decode_image, encode
from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.format.steps import is_blank, previous_decisions, successors
from efn_ros.types import Mode

STILL, MOVED = np.zeros(4), np.full(4, 0.1)
HOLDING, MOVING = np.zeros((4, 3)), np.full((4, 3), 0.1)


@pytest.mark.parametrize(
    ("executed", "proprio_next", "mode", "blank"),
    [
        (HOLDING, STILL, Mode.CORRECTED, True),
        (HOLDING, STILL + 1e-4, Mode.BASE, True),
        (MOVING, STILL, Mode.HOLD, True),
        (MOVING, STILL, Mode.STOPPED, True),
        (HOLDING, MOVED, Mode.HOLD, False),
        (MOVING, STILL, Mode.CORRECTED, False),
        (MOVING, MOVED, Mode.BASE, False),
    ],
)
def test_a_step_is_blank_if_it_holds_and_proprioception_does_not_change(executed, proprio_next, mode, blank):
    assert is_blank(executed, STILL, proprio_next, mode) is blank


def test_one_entry_that_moves_is_motion():
    proprio_next = STILL.copy()
    proprio_next[3] = 0.01
    assert not is_blank(HOLDING, STILL, proprio_next, Mode.HOLD)


@pytest.mark.parametrize(
    ("steps", "rows"),
    [([0, 1, 2], [1, 2, 2]), ([4], [0]), ([0, 1, 3, 4], [1, 1, 3, 3])],
    ids=["consecutive", "single", "gap"],
)
def test_a_step_without_a_stored_successor_is_its_own_successor(steps, rows):
    assert successors(np.array(steps)).tolist() == rows


def test_a_step_without_a_stored_predecessor_has_a_zero_previous_chunk():
    arrays = decode(encode(make_rollout(decisions=4), 90, "p"))
    arrays = dataclasses.replace(arrays, steps=np.array([0, 1, 3, 4]))
    executed, proprio = previous_decisions(arrays)
    assert not executed[[0, 2]].any()
    np.testing.assert_array_equal(executed[[1, 3]], arrays.executed[[0, 2]])
    np.testing.assert_array_equal(proprio, arrays.proprio[[0, 0, 2, 2]])


# Proposals, exploration and the experience behind a correction


def with_corrections(*changes, **sizes):
    """A rollout with one decision for each of `changes`, fields of its correction."""
    rollout = make_rollout(decisions=len(changes), **sizes)
    steps = tuple(
        dataclasses.replace(step, correction=dataclasses.replace(step.correction, **change))
        for step, change in zip(rollout.steps, changes, strict=True)
    )
    return dataclasses.replace(rollout, steps=steps)


def stored_arrays(rollout):
    return decode(encode(rollout, 90, "p"))


def test_a_proposal_is_stored_separately_from_the_residual_and_distinct_from_none():
    proposal = np.full((4, 3), 0.25, np.float32)
    arrays = stored_arrays(
        with_corrections({"proposed": proposal, "mode": Mode.SHADOW, "clipped": True}, {}, {"proposed": 0 * proposal})
    )
    np.testing.assert_array_equal(arrays.proposed, [proposal, 0 * proposal, 0 * proposal])
    assert arrays.proposes.tolist() == [True, False, True] and arrays.clipped.tolist() == [True, False, False]
    assert arrays.modes[0] == Mode.SHADOW
    assert (arrays.proposed.dtype, arrays.proposes.dtype, arrays.clipped.dtype) == (np.float32, bool, bool)


def test_modes_of_exploration_and_sources_are_stored_by_name():
    arrays = stored_arrays(
        with_corrections(
            {"exploration": "noise", "rollout_id": "übung \n 1", "rollout_step": 2},
            {},
            {"exploration": "branch", "rollout_id": "r" * 500, "rollout_step": 0},
            {"exploration": "noise", "rollout_id": "übung \n 1", "rollout_step": 3},
        )
    )
    assert arrays.explored.tolist() == ["noise", "", "branch", "noise"]
    assert arrays.source.tolist() == ["übung \n 1", "", "r" * 500, "übung \n 1"]
    assert arrays.source_step.tolist() == [2, -1, 0, 3]


# Images, one by one


@pytest.fixture
def stored(tmp_path):
    """A payload's file, and the images of its cameras."""
    content = encode(make_rollout(decisions=3, image=24), 90, "p")
    (tmp_path / "payload").write_bytes(content)
    cameras = ("left", "right")
    return tmp_path / "payload", {c: [decode_image(content, row, c) for row in range(3)] for c in cameras}


def index_of(path):
    file = PayloadFile(path)
    file.steps()
    return file.index()


def damage(path, tensor, at):
    """Flip a bit of a byte of a tensor, counted from its beginning, or from its end if negative."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8 : 8 + size])[tensor]["data_offsets"]
    content[8 + size + (start + at if at >= 0 else end + at)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_single_image_is_read_as_in_the_whole_payload(stored, indexed):
    path, images = stored
    file = PayloadFile(path, index_of(path) if indexed else None)
    for row, camera in ((2, "left"), (0, "right"), (0, "left"), (2, "left")):
        np.testing.assert_array_equal(file.image(row, camera), images[camera][row])
    assert len(file.sketches([0, 2])) == 2


@pytest.mark.parametrize("tensor", ["images.left", "offsets.left"])
@pytest.mark.parametrize("at", [0, -1])
def test_all_images_of_a_camera_are_refused_if_one_is_damaged(stored, tensor, at):
    path, images = stored
    damage(path, tensor, at)
    for row in range(3):
        with pytest.raises(ValueError, match=f"tensor '{tensor}' is not what was written"):
            PayloadFile(path).image(row, "left")
    np.testing.assert_array_equal(PayloadFile(path).image(1, "right"), images["right"][1])


def test_an_image_that_is_damaged_after_the_first_read_is_detected(stored):
    path, images = stored
    file = PayloadFile(path)
    file.image(0, "left")
    damage(path, "images.left", -1)
    np.testing.assert_array_equal(file.image(0, "left"), images["left"][0])
    with pytest.raises(ValueError, match="row 2 of tensor 'images.left' is not what was written"):
        file.image(2, "left")


def test_a_missing_camera_is_distinct_from_damage(stored):
    path, _ = stored
    with pytest.raises(KeyError, match="head"):
        PayloadFile(path).image(0, "head")
    path.write_bytes(path.read_bytes().replace(b'[\\"left\\"', b'[\\"loft\\"'))
    with pytest.raises(ValueError, match="its metadata are not what was written"):
        PayloadFile(path).image(0, "left")
