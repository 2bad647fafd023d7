# SPDX-License-Identifier: MIT
"""Reading of ROS 2 bags (rosbag2 with storage sqlite3 or mcap) without ROS, by the package `rosbags`.

A bag is a recording of the graph, with messages of this package, which `efn_ros.ros.recordings` reads; or of a
teleoperated robot, whose cameras, states and actions have different rates and are sampled here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import yaml
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from efn_ros.bank.convert.frames import NANOSECONDS, Frames, path_inside
from efn_ros.features.images import resize_crop
from efn_ros.resources import config_directory

METADATA, FILES = "metadata.yaml", (".mcap", ".db3")
TYPE_PREFIX = "efn_ros/msg/"  # prefix of the types of this package
CONTEXT_BYTES = 40  # shown before and after bytes that are not UTF-8
URI = "%?#"  # rosbags passes the path to SQLite as a URI, in which these have a meaning

# (topic, type, CDR) of a message -> stamp in nanoseconds, 0 for none; names of its entries, () for an image; value
MessageReader = Callable[[str, str, bytes], tuple[int, tuple, np.ndarray]]


@dataclass(frozen=True)
class Bag:
    """An open bag."""

    path: Path  # directory or file
    reader: Reader  # open
    topics: dict[str, str]  # topic with messages to their type, such as sensor_msgs/msg/Image

    @property
    def has_graph_messages(self) -> bool:
        """Whether it contains messages of this package."""
        return any(kind.startswith(TYPE_PREFIX) for kind in self.topics.values())

    def topic_of(self, kind: str) -> str:
        """Return the topic of a type.

        Raises:
            ValueError: There is none, or more than one.
        """
        found = [topic for topic, type_ in self.topics.items() if type_ == kind]
        if len(found) != 1:
            several = f"{kind} on {' and '.join(found)}; record one of them" if found else f"no message of {kind}"
            raise ValueError(f"{self.path} holds {several}")
        return found[0]

    def messages(self, *topics: str) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, type, time of reception in nanoseconds, CDR) of the messages of some topics, in temporal order.

        Raises:
            ValueError: A topic has no message, a type has another definition here, or, after the last message, the bag
                holds fewer messages than its metadata state.
        """
        for topic in topics:
            if topic not in self.topics:
                raise ValueError(f"{self.path} holds no message of topic {topic!r}, only {', '.join(self.topics)}")
        connections = [c for c in self.reader.connections if c.topic in topics]
        missing = sum(c.msgcount for c in connections)
        with _translate_errors(self.path):
            for connection in connections:
                _check_type(connection)
            for connection, received_ns, raw in self.reader.messages(connections):
                missing -= 1
                yield connection.topic, connection.msgtype, received_ns, bytes(raw)
        if missing > 0:
            raise ValueError(f"{self.path} is truncated: {missing} messages that its metadata count are missing")


def is_bag(path: Path) -> bool:
    """Return whether a path is the directory or a file of a rosbag2, by its names."""
    return (path / METADATA).is_file() or (path.suffix in FILES and path.is_file())


@contextlib.contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Open the directory of a bag, or one file of it.

    Raises:
        ValueError: A file lies outside of the directory, or the bag cannot be read. No file is opened before all paths
            are checked.
    """
    _check_files(path)
    with _translate_errors(path):
        reader = Reader(path)
        reader.open()
    try:
        yield Bag(path, reader, {c.topic: c.msgtype for c in reader.connections if c.msgcount})
    finally:
        reader.close()


def frames(
    bag: Bag,
    readers: Mapping[str, MessageReader],
    *,
    state: str,
    action: str,
    rate: float,
    max_gap_s: float,
    image_size: int,
    instruction: str,
) -> tuple[int, Frames]:
    """Sample the frames of a teleoperated robot; one episode.

    Frames begin when every topic has a message and end at the last message of all. Each contains the newest message of
    each topic, by the stamp of its header or else by its time of reception.

    Args:
        bag: Open.
        readers: By topic; every topic except `state` and `action` is a camera.
        state: Topic of proprioception.
        action: Topic of actions.
        rate: Frames a second.
        max_gap_s: Longest time without a message of a topic, seconds.
        image_size: Side of the square images, pixels.
        instruction: Of the episode.

    Returns:
        The stamp of the first frame, nanoseconds, and the frames.

    Raises:
        ValueError: A topic has no message, a longer gap, changing entries, or values that are not finite, or a message
            cannot be read; the message names the topic.
    """
    if not 0 < rate < np.inf:
        raise ValueError(f"the rate is {rate}; give frames a second")
    messages = _read_topics(bag, readers, image_size)
    stamps = {topic: np.array([stamp for stamp, _ in read], np.int64) for topic, read in messages.items()}
    times, rows = sample(stamps, rate, max_gap_s)
    chosen = {topic: [read[row][1] for row in rows[topic]] for topic, read in messages.items()}
    images = {topic: chosen[topic] for topic in readers if topic not in (state, action)}
    return int(times[0]), Frames(0, instruction, rate, images, np.stack(chosen[state]), np.stack(chosen[action]))


def sample(stamps: Mapping[str, np.ndarray], rate: float, max_gap_s: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Sample topics at a fixed rate.

    Args:
        stamps: Ascending stamps of each topic, int64, nanoseconds.
        rate: Samples a second.
        max_gap_s: Longest time without a stamp, seconds.

    Returns:
        Times, int64 (T,), nanoseconds, and for each topic the row of its newest stamp at each time, int64 (T,).

    Raises:
        ValueError: A topic has a longer gap; the message names both.
    """
    begin, end = max(s[0] for s in stamps.values()), max(s[-1] for s in stamps.values())
    for topic, own in stamps.items():
        since = np.append(own[np.searchsorted(own, begin, "right") - 1 :], end)
        gaps = np.diff(since) / NANOSECONDS
        if gaps.max() > max_gap_s:
            after_s = (since[gaps.argmax()] - begin) / NANOSECONDS
            raise ValueError(
                f"{topic} is silent for {gaps.max():.3f} s, from {after_s:.3f} s after the first frame; record it "
                f"again or allow more than {max_gap_s:g} s with --max-gap"
            )
    count = int((end - begin) * rate / NANOSECONDS) + 1
    times = begin + np.round(np.arange(count) * NANOSECONDS / rate).astype(np.int64)
    return times, {topic: np.searchsorted(own, times, "right") - 1 for topic, own in stamps.items()}


def _read_topics(
    bag: Bag, readers: Mapping[str, MessageReader], image_size: int
) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Return stamps and values of the messages of each topic, by stamp."""
    messages: dict[str, list[tuple[int, np.ndarray]]] = {topic: [] for topic in readers}
    entries: dict[str, tuple] = {}
    for topic, kind, received_ns, raw in bag.messages(*readers):
        stamp_ns, names, value = readers[topic](topic, kind, raw)
        if entries.setdefault(topic, names) != names:
            raise ValueError(f"{topic} holds {entries[topic]} and later {names}; its entries must stay the same")
        if not np.isfinite(value).all():
            raise ValueError(f"{topic} holds {value.tolist()} at {received_ns} ns; leave this episode out")
        messages[topic].append((stamp_ns or received_ns, value if names else resize_crop(value, image_size)))
    return {topic: sorted(read, key=lambda pair: pair[0]) for topic, read in messages.items()}


def _check_files(bag: Path) -> None:
    """Check that all files of a bag lie in its directory."""
    names = []
    if bag.is_dir():
        with _translate_errors(path_inside(bag, METADATA)):
            metadata = yaml.safe_load((bag / METADATA).read_text(encoding="utf-8"))
            names = [str(name) for name in metadata["rosbag2_bagfile_information"]["relative_file_paths"]]
    for name in names:
        path_inside(bag, name)
        opened = path_inside(bag, PurePath(name).name)  # as rosbags does: older bags prefix their directory
        if not opened.is_file():
            raise ValueError(f"{opened}, which {METADATA} names, is no file; restore it")
    for letter in URI:
        if any(letter in name for name in (str(bag), *names)):
            raise ValueError(f"{bag} or a file of it has {letter!r} in its name; rename it")


def _check_type(connection: Connection) -> None:
    """Check that the type of a topic has the same definition here."""
    digest, definition = connection.digest, connection.msgdef
    if not digest and definition.format == MessageDefinitionFormat.MSG:
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(definition.data, connection.msgtype))
        digest = store.hash_rihs01(connection.msgtype)
    if digest and connection.msgtype in _types().fielddefs and digest != _types().hash_rihs01(connection.msgtype):
        raise ValueError(f"{connection.topic} was recorded with another definition of {connection.msgtype}")


@functools.cache
def _types() -> Typestore:
    """Return the message definitions of ROS 2 and of this package."""
    store, own = get_typestore(Stores.ROS2_JAZZY), {}
    for path in (config_directory().parent / "msg").glob("*.msg"):
        own |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{TYPE_PREFIX}{path.stem}")
    store.register(own)
    return store


@contextlib.contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        context = error.object[max(0, error.start - CONTEXT_BYTES) : error.end + CONTEXT_BYTES]
        raise ValueError(f"{path} holds text that is not UTF-8: {context!r}") from error
    except Exception as error:  # noqa: BLE001 - parsers of damaged bytes raise any error
        raise ValueError(f"{path} cannot be read as a bag: {error or type(error).__name__}") from error
