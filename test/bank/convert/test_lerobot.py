# SPDX-License-Identifier: MIT
"""Export of a bank in LeRobot's format, reading it back, and conversion of recordings to rollouts."""

import dataclasses
import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_rollouts import PROJECTION, at_5_hz, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.convert import lerobot as format_
from efn_ros.bank.convert.demonstrations import as_rollout
from efn_ros.bank.convert.lerobot import export, read
from efn_ros.types import Mode, Outcome


@pytest.fixture
def rollouts(tmp_path):
    with BankWriter(tmp_path / "bank", projection=PROJECTION) as writer:
        for i, name in enumerate("abc"):
            made = make_rollout(name, 3 + i, outcome=Outcome.FAILURE if name == "b" else Outcome.SUCCESS)
            instruction = "push the puck" if name == "c" else "reach the goal"
            writer.append(dataclasses.replace(at_5_hz(made), instruction=instruction))
    return BankReader(tmp_path / "bank").snapshot().rollouts


def test_an_exported_dataset_is_read_back(rollouts, tmp_path):
    assert export(rollouts, tmp_path / "dataset") == 12
    episodes, reader = list(read(tmp_path / "dataset")), BankReader(tmp_path / "bank")
    assert [frames.task for frames in episodes] == ["reach the goal", "reach the goal", "push the puck"]
    assert [frames.success for frames in episodes] == [True, False, True]
    for index, (frames, rollout) in enumerate(zip(episodes, rollouts, strict=True)):
        arrays = rollout.arrays
        assert (frames.index, frames.fps) == (index, 5.0)
        np.testing.assert_array_equal(frames.state, arrays.proprio)
        np.testing.assert_array_equal(frames.action, arrays.executed[:, 0])
        np.testing.assert_array_equal(frames.executed, arrays.executed)
        np.testing.assert_array_equal(frames.base, arrays.base)
        for t in range(len(arrays.steps)):
            for camera in ("left", "right"):
                stored = reader.image(rollout.record.id, t, camera)
                assert np.abs(frames.images[camera][t].astype(int) - stored).max() <= 3, "two decoders of one JPEG"


def test_the_files_follow_the_format(rollouts, tmp_path, monkeypatch):
    monkeypatch.setattr(format_, "FILE_MEGABYTES", 0)  # a file for each episode
    export(rollouts, tmp_path / "dataset", fps=12.5)
    info = json.loads((tmp_path / "dataset/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 12.5, {"train": "0:3"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 12, 2)
    image = {"dtype": "image", "shape": [8, 8, 3], "names": ["height", "width", "channels"]}
    assert info["features"]["observation.images.left"] == image
    assert info["features"]["chunk.executed"]["shape"] == [4, 3]
    paths = sorted((tmp_path / "dataset/data").glob("*/*"))
    assert [path.name for path in paths] == [f"file-00{i}.parquet" for i in range(3)]
    for path in paths:
        assert set(pq.read_table(path).column_names) == set(info["features"])
    episodes = pq.read_table(tmp_path / "dataset/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(e["dataset_from_index"], e["dataset_to_index"]) for e in episodes] == [(0, 3), (3, 7), (7, 12)]
    assert [e["data/file_index"] for e in episodes] == [0, 1, 2]
    frames = pa.concat_tables([pq.read_table(path) for path in paths])
    assert frames["index"].to_pylist() == list(range(12))
    assert frames["frame_index"].to_pylist() == [*range(3), *range(4), *range(5)]
    np.testing.assert_allclose(frames["timestamp"].to_pylist()[:3], [0, 0.08, 0.16], atol=1e-6)
    assert [i for i, done in enumerate(frames["next.done"].to_pylist()) if done] == [2, 6, 11]
    assert [i for i, success in enumerate(frames["next.success"].to_pylist()) if success] == [2, 11]
    stats = json.loads((tmp_path / "dataset/meta/stats.json").read_text())
    states = np.concatenate([r.arrays.proprio for r in rollouts])
    np.testing.assert_allclose(stats["observation.state"]["mean"], states.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], states.std(axis=0), rtol=1e-5)
    assert np.shape(stats["observation.images.left"]["mean"]) == (3, 1, 1)
    tasks = pq.read_table(tmp_path / "dataset/meta/tasks.parquet")
    described = json.loads(tasks.schema.metadata[b"pandas"])
    assert described["index_columns"] == ["task"] and tasks["task"].to_pylist() == ["reach the goal", "push the puck"]


def test_invalid_exports_are_refused(rollouts, tmp_path):
    with pytest.raises(ValueError, match="there is no rollout to export"):
        export([], tmp_path / "none")
    (tmp_path / "existing").mkdir()
    with pytest.raises(ValueError, match="existing exists already; name a new directory"):
        export(rollouts, tmp_path / "existing")
    with BankWriter(tmp_path / "bank", projection=PROJECTION) as writer:
        writer.append(make_rollout("one-camera", cameras=("left",)))
    with pytest.raises(ValueError, match="rollout 'one-camera' has cameras"):
        export(BankReader(tmp_path / "bank").snapshot().rollouts, tmp_path / "mixed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(codebase_version="v2.1"), "has version v2.1, not v3.0; convert it first"),
        (lambda info: info["features"].pop("action"), "has no feature 'action', only observation.images.left"),
        (lambda info: info["features"]["observation.images.left"].update(dtype="video"), "as video; only images"),
        (
            lambda info: info.update(data_path="../{chunk_index}/{file_index}.parquet"),
            r"in '\.\./\{chunk_index\}.*; only",
        ),
        (
            lambda info: info.update(data_path="/etc/{chunk_index}.parquet"),
            r"stores its frames in '/etc/.*; only data/chunk",
        ),
        (lambda info: info.pop("data_path"), "stores its frames in None; only data/chunk"),
    ],
)
def test_unsupported_datasets_are_refused(rollouts, tmp_path, change, message):
    with pytest.raises(ValueError, match="there is no LeRobot dataset in"):
        list(read(tmp_path))
    export(rollouts, tmp_path / "dataset")
    path = tmp_path / "dataset/meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path / "dataset"))


@pytest.mark.parametrize(
    "linked",
    ["meta/info.json", "meta/tasks.parquet", "meta", "data", "data/chunk-000", "data/chunk-000/file-000.parquet"],
)
def test_a_path_that_leads_out_of_a_dataset_is_refused_before_it_is_opened(rollouts, tmp_path, linked):
    export(rollouts, tmp_path / "dataset")
    inside, outside = tmp_path / "dataset" / linked, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(ValueError, match=rf"{linked}.* leads out of {tmp_path / 'dataset'}, which is not allowed"):
        next(read(tmp_path / "dataset"))


def test_a_link_within_a_dataset_is_followed(rollouts, tmp_path):
    export(rollouts, tmp_path / "dataset")
    file = tmp_path / "dataset/data/chunk-000/file-000.parquet"
    file.rename(tmp_path / "dataset/frames.parquet")
    file.symlink_to("../../frames.parquet")
    (tmp_path / "link").symlink_to("dataset")
    assert len(list(read(tmp_path / "dataset"))) == len(list(read(tmp_path / "link"))) == 3


def test_images_are_exported_byte_for_byte(rollouts, tmp_path):
    export(rollouts, tmp_path / "dataset")
    cell = pq.read_table(tmp_path / "dataset/data/chunk-000/file-000.parquet")["observation.images.left"][0].as_py()
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(image, BankReader(tmp_path / "bank").image("a", 0, "left"))


# Rollouts from recordings


def policy(base):
    """A frozen policy with a constant action, and the list of its observations."""
    observations = []

    def infer(observation):
        observations.append(observation)
        made = make_rollout("x", 1).steps[0].policy_step
        return dataclasses.replace(made, context=observation.context, base=base, proprio=observation.proprio)

    return infer, observations


def recorded(actions, **fields):
    image, count = np.full((16, 24, 3), 90, np.uint8), len(actions)
    values = {"index": 7, "task": "reach the goal", "fps": 10.0, "images": {"top": [image] * count}}
    state, actions = np.zeros((count, 4), np.float32), np.asarray(actions, np.float32)
    return format_.Frames(**values | fields, state=state, action=actions)


GIVEN = {"episode_id": "d-7", "robot": "arm", "cameras": {"eye": "top"}, "image_size": 8, "start_ns": 5}


def test_without_chunks_the_executed_chunk_is_the_following_actions():
    actions = np.arange(9, dtype=np.float32).reshape(3, 3)
    infer, observations = policy(np.zeros((2, 3), np.float32))
    rollout = as_rollout(recorded(actions), infer, **GIVEN)
    executed = [step.correction.corrected.tolist() for step in rollout.steps]
    assert executed == [actions[[0, 1]].tolist(), actions[[1, 2]].tolist(), actions[[2, 2]].tolist()]
    assert {step.correction.mode for step in rollout.steps} == {Mode.CORRECTED}
    assert [step.observation.context.stamp_ns for step in rollout.steps] == [5, 100_000_005, 200_000_005]
    assert observations[0].images["eye"].shape == (8, 8, 3)
    assert (rollout.episode_id, rollout.instruction, rollout.outcome) == ("d-7", "reach the goal", Outcome.UNKNOWN)
    rollout = as_rollout(recorded(actions, success=True), infer, **GIVEN, task="reach", outcome=Outcome.FAILURE)
    assert (rollout.task, rollout.outcome) == ("reach", Outcome.SUCCESS), "the outcome of the dataset takes precedence"


def test_an_action_equal_to_the_base_is_no_correction():
    rollout = as_rollout(recorded(np.ones((2, 3))), policy(np.ones((2, 3), np.float32))[0], **GIVEN)
    assert {step.correction.mode for step in rollout.steps} == {Mode.BASE}
    assert not any(step.correction.residual.any() for step in rollout.steps)


@pytest.mark.parametrize(
    ("cameras", "actions", "message"),
    [
        ({"eye": "wrist"}, np.zeros((2, 3)), "the dataset has no camera 'wrist', only top; map"),
        ({"eye": "top"}, np.zeros((2, 5)), "an action of the dataset has 5 entries; one of the policy 3"),
    ],
)
def test_a_recording_that_does_not_fit_the_policy_is_refused(cameras, actions, message):
    with pytest.raises(ValueError, match=message):
        as_rollout(recorded(actions), policy(np.zeros((2, 3), np.float32))[0], **GIVEN | {"cameras": cameras})
