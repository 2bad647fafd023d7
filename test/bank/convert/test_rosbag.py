# SPDX-License-Identifier: MIT
"""Reading of rosbag2: complete or refused by name; frames contain the newest messages and none of the future."""

from __future__ import annotations

import os
from functools import partial

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="rclpy is not importable: no ROS 2 here")

from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sample_bags import (
    MCAP,
    SQLITE3,
    STORED,
    at,
    compressed,
    joints,
    numbers,
    picture,
    type_of,
    write_bag,
)
from std_msgs.msg import Float32MultiArray, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from efn_ros.bank.convert.rosbag import frames, is_bag, open_bag, sample
from efn_ros.ros.recordings import read_image, read_vector

SECOND = 10**9
BEGIN = 1_700_000_000 * SECOND
STRINGS, NUMBERS = "std_msgs/msg/String", "std_msgs/msg/Float64MultiArray"
MESSAGES = at(  # as bytes: rclpy does not always pad with the same
    [
        ("/a", (STRINGS, serialize_message(String(data="one")))),
        ("/b", (NUMBERS, serialize_message(numbers(1.0, 2.0)))),
        ("/a", (STRINGS, serialize_message(String(data="two")))),
        ("/b", (NUMBERS, serialize_message(numbers(3.0)))),
    ]
)


def contents(path, *topics):
    with open_bag(path) as bag:
        return list(bag.messages(*topics))


def file_of(path):
    (file,) = [file for file in path.iterdir() if file.name != "metadata.yaml"]
    return file


# Storage


@pytest.mark.parametrize(("storage", "compression"), STORED, ids=lambda value: value.name.lower())
def test_messages_come_back_as_they_were_stored(tmp_path, storage, compression):
    path = write_bag(tmp_path / "bag", MESSAGES, storage, compression)
    assert is_bag(path)
    with open_bag(path) as bag:
        assert bag.topics == {"/a": STRINGS, "/b": NUMBERS} and not bag.has_graph_messages
        assert list(bag.messages("/a", "/b")) == [(topic, kind, when, raw) for topic, (kind, raw), when in MESSAGES]
        assert [read_vector(*messages[:2], messages[3])[2].tolist() for messages in bag.messages("/b")] == [
            [1.0, 2.0],
            [3.0],
        ]


@pytest.mark.parametrize("storage", [SQLITE3, MCAP])
def test_one_file_of_a_bag_is_a_bag_too(tmp_path, storage):
    whole = write_bag(tmp_path / "bag", MESSAGES, storage)
    file = file_of(whole)
    assert is_bag(file) and not is_bag(whole / "metadata.yaml")
    assert contents(file, "/a", "/b") == [(topic, kind, when, raw) for topic, (kind, raw), when in MESSAGES]


@pytest.mark.parametrize("storage", [SQLITE3, MCAP])
def test_a_bag_of_several_files_is_read_in_their_order(tmp_path, storage):
    path, second = (
        write_bag(tmp_path / "bag", MESSAGES[:2], storage),
        write_bag(tmp_path / "more", MESSAGES[2:], storage),
    )
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"].append(file_of(second).name)
    for topic in information["topics_with_message_count"]:
        topic["message_count"] = 2
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    file_of(second).rename(path / file_of(second).name)
    assert contents(path, "/a", "/b") == [(topic, kind, when, raw) for topic, (kind, raw), when in MESSAGES]


def test_a_missing_topic_is_reported_with_the_existing_ones(tmp_path):
    path = write_bag(tmp_path / "bag", MESSAGES)
    with pytest.raises(ValueError, match=r"holds no message of topic '/c', only /a, /b"):
        contents(path, "/a", "/c")
    with pytest.raises(ValueError, match=r"holds no message of topic '/\\udcff', only"):
        contents(path, os.fsdecode(b"/\xff"))


@pytest.mark.parametrize("storage", [SQLITE3, MCAP])
def test_a_topic_that_is_not_utf_8_is_shown_as_bytes(tmp_path, storage):
    path = write_bag(tmp_path / "bag", at([("/rot_a", String(data="one"))]), storage)
    for file in path.iterdir():
        file.write_bytes(file.read_bytes().replace(b"/rot_a", b"/rot_\xff"))
    for source in (path, file_of(path)):
        with pytest.raises(ValueError, match=r"holds text that is not UTF-8: b.*/rot_\\xff"):
            contents(source, "/rot_a")


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("storage", [SQLITE3, MCAP])
def test_messages_of_another_definition_are_refused(tmp_path, storage, as_file):
    other = get_typestore(Stores.EMPTY)
    other.register(get_types_from_msg("string episode_id\nbool saved\n", "efn_ros/msg/EpisodeState"))
    path = write_bag(
        tmp_path / "bag", [("/efn/episode", ("efn_ros/msg/EpisodeState", bytes(9)), 1)], storage, store=other
    )
    with pytest.raises(
        ValueError, match="/efn/episode was recorded with another definition of efn_ros/msg/EpisodeState"
    ):
        contents(file_of(path) if as_file else path, "/efn/episode")


# Damaged bags, and paths that lead out of a bag


@pytest.fixture(scope="module", params=STORED, ids=lambda stored: "-".join(part.name.lower() for part in stored))
def stored(request, tmp_path_factory):
    """A bag, its file, the bytes of that, and its messages."""
    messages = [(topic, message, i) for i, (topic, message, _) in enumerate(MESSAGES * 20)]
    path = write_bag(tmp_path_factory.mktemp("bags") / "bag", messages, *request.param)
    file = file_of(path)
    return path, file, file.read_bytes(), contents(path, "/a", "/b")


@given(st.data())
def test_a_truncated_bag_is_refused_by_name(stored, data):
    path, file, content, whole = stored
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=f"{path} (cannot be read as a bag|is truncated: [0-9]+ messages)"):
        contents(path, "/a", "/b")


@given(st.data())
def test_a_damaged_bag_gives_all_messages_or_an_error_with_its_path(stored, data):
    path, file, content, whole = stored
    changed = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        changed[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        assert len(contents(path, "/a", "/b")) == len(whole)
    except ValueError as error:
        assert str(path) in str(error)


def name_in_metadata(path, name):
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(file_of(path).name, name))


def lead_out_by_name(path, outside):
    name_in_metadata(path, f"../{outside.name}")


def lead_out_by_absolute_name(path, outside):
    name_in_metadata(path, str(outside))


def lead_out_by_two_dots(path, outside):
    name_in_metadata(path, "..")


def lead_out_by_a_link(path, outside):
    file = file_of(path)
    file.unlink()
    file.symlink_to(outside)


def lead_out_by_linked_metadata(path, outside):
    (path / "metadata.yaml").rename(path.parent / "metadata.yaml")
    (path / "metadata.yaml").symlink_to(path.parent / "metadata.yaml")


def lead_out_by_an_address(path, outside):
    name_in_metadata(path, "'%2e%2e%2foutside.db3'")
    file_of(path).rename(path / "%2e%2e%2foutside.db3")


PATHS = [
    (lead_out_by_name, r"bag/\.\./outside\.db3 leads out of .*bag, which is not allowed"),
    (lead_out_by_absolute_name, r"/outside\.db3 leads out of .*bag"),
    (lead_out_by_two_dots, r"bag/\.\. leads out of .*bag"),
    (lead_out_by_a_link, r"bag/.*\.db3 leads out of .*bag"),
    (lead_out_by_linked_metadata, r"bag/metadata\.yaml leads out of .*bag"),
    (lead_out_by_an_address, r"or a file of it has '%' in its name; rename it"),
]


@pytest.mark.parametrize(("lead_out", "message"), PATHS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_path_that_leads_out_of_a_bag_is_refused_before_it_is_opened(tmp_path, lead_out, message):
    os.mkfifo(tmp_path / "outside.db3")  # opening it would block
    path = write_bag(tmp_path / "bag", MESSAGES, SQLITE3)
    lead_out(path, tmp_path / "outside.db3")
    with pytest.raises(ValueError, match=message):
        contents(path, "/a")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("rosbag2_bagfile_information: {}", "metadata.yaml cannot be read as a bag: 'relative_file_paths'"),
        ("[", "metadata.yaml cannot be read as a bag: while parsing"),
        (
            "rosbag2_bagfile_information: {relative_file_paths: [pipe.mcap]}",
            "pipe.mcap, which metadata.yaml names, is no",
        ),
        (
            "rosbag2_bagfile_information: {relative_file_paths: [missing.mcap]}",
            "missing.mcap, which metadata.yaml names, is no",
        ),
        (
            "rosbag2_bagfile_information: {relative_file_paths: []}",
            "cannot be read as a bag: A metadata key is missing",
        ),
    ],
)
def test_metadata_that_describe_no_bag_are_refused(tmp_path, metadata, message):
    os.mkfifo(tmp_path / "pipe.mcap")
    (tmp_path / "metadata.yaml").write_text(metadata)
    with pytest.raises(ValueError, match=message):
        contents(tmp_path, "/a")


# Sampling


stamps = (
    st.lists(st.integers(0, 2_000_000_000), min_size=1, max_size=12).map(sorted).map(partial(np.array, dtype=np.int64))
)


@given(st.dictionaries(st.sampled_from("abc"), stamps, min_size=1), st.floats(0.7, 40.0))
def test_a_frame_contains_the_newest_message_of_every_topic_and_none_of_the_future(messages, rate):
    times, rows = sample(messages, rate, 10.0)
    begin, end = max(s[0] for s in messages.values()), max(s[-1] for s in messages.values())
    assert times[0] == begin and times[-1] <= end < times[-1] + SECOND / rate + 1
    np.testing.assert_allclose(np.diff(times), SECOND / rate, atol=1)
    for topic, stamps in messages.items():
        for time, row in zip(times, rows[topic], strict=True):
            assert row == max(i for i, stamp in enumerate(stamps) if stamp <= time)


@given(st.dictionaries(st.sampled_from("abc"), stamps, min_size=1), st.floats(0.01, 2.0))
def test_a_topic_with_too_long_a_gap_is_reported_with_the_gap(messages, allowed_s):
    begin, end = max(s[0] for s in messages.values()), max(s[-1] for s in messages.values())
    gaps = {}
    for topic, stamps in messages.items():
        times = [max(stamp for stamp in stamps if stamp <= begin), *(stamp for stamp in stamps if stamp > begin), end]
        gaps[topic] = max(later - earlier for earlier, later in zip(times, times[1:], strict=False)) / SECOND
    if max(gaps.values()) <= allowed_s:
        sample(messages, 1.0, allowed_s)
        return
    with pytest.raises(ValueError, match="is silent for") as refused:
        sample(messages, 1.0, allowed_s)
    topic = str(refused.value)[0]
    assert gaps[topic] > allowed_s and f"{topic} is silent for {gaps[topic]:.3f} s" in str(refused.value)


# Frames


READERS = {"/top": read_image, "/state": read_vector, "/action": read_vector}
SETTINGS = {
    "state": "/state",
    "action": "/action",
    "rate": 10.0,
    "max_gap_s": 0.5,
    "image_size": 6,
    "instruction": "wave",
}


def operated(path, messages, readers=READERS, **settings):
    with open_bag(write_bag(path, messages)) as bag:
        return frames(bag, readers, **SETTINGS | settings)


def test_frames_are_sampled_at_the_rate_by_header_stamps(tmp_path):
    ms = 1_000_000
    messages = [("/state", joints(BEGIN + t * ms, t, -t), BEGIN + t * ms + 7 * ms) for t in range(0, 400, 20)]
    messages += [("/top", picture(BEGIN + t * ms, t // 10), BEGIN + (t + 90) * ms) for t in range(30, 400, 33)]
    messages += [("/action", numbers(t, t + 1, t + 2), BEGIN + t * ms) for t in range(5, 400, 50)]
    start_ns, found = operated(tmp_path / "bag", sorted(messages, key=lambda each: each[2]))
    assert start_ns == BEGIN + 30 * ms, "at the first message of the last topic, by its header"
    assert (found.task, found.fps, found.index, found.success) == ("wave", 10.0, 0, None)
    assert found.state.tolist() == [[20, -20], [120, -120], [220, -220], [320, -320]]
    assert found.action[:, 0].tolist() == [5, 105, 205, 305]
    assert [frame[0, 0, 0] for frame in found.images["/top"]] == [3, 12, 22, 32]
    assert found.images["/top"][0].shape == (6, 6, 3) and found.state.dtype == found.action.dtype == np.float32


def test_without_a_stamp_the_time_of_reception_counts(tmp_path):
    messages = [
        ("/state", joints(0, 1.0), BEGIN),
        ("/top", picture(0, 9), BEGIN + 5),
        ("/action", numbers(2.0), BEGIN + 3),
    ]
    start_ns, found = operated(tmp_path / "bag", messages)
    assert start_ns == BEGIN + 5 and len(found.state) == 1


def test_every_supported_message_type_is_read(tmp_path):
    done, png = cv2.imencode(".png", np.full((6, 6, 3), (30, 20, 10), np.uint8))
    assert done
    points = [JointTrajectoryPoint(positions=[0.0, 0.0]), JointTrajectoryPoint(positions=[1.0, 2.0])]
    messages = [
        ("/top", compressed(BEGIN, png.tobytes()), BEGIN),
        ("/state", Float32MultiArray(data=[0.5]), BEGIN),
        ("/action", JointTrajectory(joint_names=["a", "b"], points=points), BEGIN),
    ]
    _, found = operated(tmp_path / "bag", messages)
    assert found.images["/top"][0][0, 0].tolist() == [10, 20, 30]
    assert (found.state.tolist(), found.action.tolist()) == ([[0.5]], [[1.0, 2.0]]), "the last point"


def test_joints_are_selected_by_name_in_the_given_order(tmp_path):
    state = joints(BEGIN, 1.0, 2.0, 3.0, names="abc")
    messages = [("/state", state, BEGIN), ("/top", picture(BEGIN, 9), BEGIN), ("/action", numbers(0.0), BEGIN)]
    _, found = operated(tmp_path / "bag", messages, {**READERS, "/state": partial(read_vector, joints=["c", "a"])})
    assert found.state.tolist() == [[3.0, 1.0]]


AFTER = BEGIN + SECOND // 10
GOOD = {"/top": picture(AFTER, 9), "/state": joints(AFTER, 1.0, 2.0, names="ab"), "/action": numbers(0.0)}


@pytest.mark.parametrize(
    ("topic", "message", "error"),
    [
        ("/top", String(data="x"), "is of type std_msgs/msg/String; only sensor_msgs/msg/Image, sensor_msgs/msg/Comp"),
        ("/top", joints(BEGIN, 1.0), "is of type sensor_msgs/msg/JointState; only sensor_msgs/msg/Image, "),
        ("/state", picture(BEGIN, 1), "is of type sensor_msgs/msg/Image; only sensor_msgs/msg/JointState, std_msgs"),
        ("/action", String(data="x"), "is of type std_msgs/msg/String; only"),
        ("/top", compressed(BEGIN, b"rubbish"), "holds a message of .*/CompressedImage that cannot be read: .* no "),
        ("/state", joints(BEGIN), "holds a message of sensor_msgs/msg/JointState that cannot be read: .* no positions"),
        ("/state", joints(BEGIN, 1.0, 2.0, names="ba"), r"holds \('b', 'a'\) and later \('a', 'b'\); its entries must"),
        ("/state", joints(BEGIN, 1.0, 2.0, 3.0), r"holds \(0, 1, 2\) and later \('a', 'b'\)"),
        ("/action", numbers(1.0, 2.0), r"holds \(0, 1\) and later \(0,\)"),
        ("/action", numbers(), "holds a message of .*/Float64MultiArray that cannot be read: it holds no numbers"),
        ("/action", numbers(np.nan), r"holds \[nan\] at 1700000000000000000 ns; leave this episode out"),
        ("/action", JointTrajectory(), "holds a message of .*/JointTrajectory that cannot be read: it holds no point"),
    ],
)
def test_an_unreadable_message_is_reported_with_its_topic(tmp_path, topic, message, error):
    messages = [(topic, message, BEGIN)]
    if type_of(message) == type_of(GOOD[topic]):
        messages += [(topic, GOOD[topic], AFTER)]
    messages += [(other, good, AFTER) for other, good in GOOD.items() if other != topic]
    with pytest.raises(ValueError, match=f"^{topic} {error}"):
        operated(tmp_path / "bag", messages)


def test_bytes_that_are_no_message_are_reported_with_their_topic(tmp_path):
    messages = [(topic, good, AFTER) for topic, good in GOOD.items() if topic != "/state"]
    messages += [("/state", ("sensor_msgs/msg/JointState", b"\0\1\0\0rub"), AFTER)]
    with pytest.raises(ValueError, match="/state holds a message of sensor_msgs/msg/JointState that cannot be read"):
        operated(tmp_path / "bag", messages)


@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan, np.inf])
def test_an_invalid_rate_is_refused(tmp_path, rate):
    with pytest.raises(ValueError, match=f"the rate is {rate}; give frames a second"):
        operated(tmp_path / "bag", [(topic, good, AFTER) for topic, good in GOOD.items()], rate=rate)
