"""Recordings of ROS 2 (rosbag2, its storages sqlite3 and mcap), without ROS: `rosbags` reads what is stored.

A bag is of the graph itself, where it holds messages of this package (`efn_ros.ros.recordings` reads those), or of a
robot that somebody operated: cameras, states and actions, each at a pace of its own, that are sampled here.
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

from efn_ros.bank.convert.lerobot import NANOSECONDS, Frames, inside
from efn_ros.features.images import resize_crop
from efn_ros.resources import config_directory

METADATA, FILES = "metadata.yaml", (".mcap", ".db3")
OWN = "efn_ros/msg/"  # how types of this package begin
AROUND = 40  # bytes that are shown on both sides of one that is no text
URI = "%?#"  # what rosbags opens is a URI to SQLite, in which these lead elsewhere

# (topic, type, CDR) of a message -> its stamp, nanoseconds, 0 for none; names of its entries, () of an image; itself
Read = Callable[[str, str, bytes], tuple[int, tuple, np.ndarray]]


@dataclass(frozen=True)
class Bag:
    """An open bag. topics: name -> type of its messages, such as sensor_msgs/msg/Image, of those that hold any."""

    path: Path
    reader: Reader
    topics: dict[str, str]

    @property
    def of_graph(self) -> bool:
        """Whether it holds messages of this package."""
        return any(kind.startswith(OWN) for kind in self.topics.values())

    def topic_of(self, kind: str) -> str:
        """The one topic of a type. Raises ValueError, naming it, where there is none, or several."""
        found = [topic for topic, said in self.topics.items() if said == kind]
        if len(found) != 1:
            several = f"{kind} on {' and '.join(found)}; record one of them" if found else f"no message of {kind}"
            raise ValueError(f"{self.path} holds {several}")
        return found[0]

    def messages(self, *topics: str) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, when it was received in nanoseconds, CDR) of each message of some topics, in their order.

        Raises ValueError, naming it, for a topic that is not there, for a type that is another one here, and, after the
        last message, for a bag that holds fewer than it says.
        """
        for topic in topics:
            if topic not in self.topics:
                raise ValueError(f"{self.path} holds no message of topic {topic!r}; there are {', '.join(self.topics)}")
        connections = [c for c in self.reader.connections if c.topic in topics]
        missing = sum(c.msgcount for c in connections)
        with _readable(self.path):
            for connection in connections:
                _check_type(connection)
            for connection, received_ns, raw in self.reader.messages(connections):
                missing -= 1
                yield connection.topic, connection.msgtype, received_ns, bytes(raw)
        if missing > 0:
            raise ValueError(f"{self.path} is cut short: it lacks {missing} messages that it says it holds")


def is_bag(path: Path) -> bool:
    """Whether it is the directory or the file of a rosbag2, by its names."""
    return (path / METADATA).is_file() or (path.suffix in FILES and path.is_file())


@contextlib.contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """A directory with its metadata, or one file of it.

    Raises ValueError, naming it, for files that lie outside of the directory, before any of them is opened, and for a
    bag that cannot be read.
    """
    _check_files(path)
    with _readable(path):
        reader = Reader(path)
        reader.open()
    try:
        yield Bag(path, reader, {c.topic: c.msgtype for c in reader.connections if c.msgcount})
    finally:
        reader.close()


def frames(
    bag: Bag, readers: Mapping[str, Read], *, state: str, action: str, rate: float, max_gap_s: float, image_size: int,
    instruction: str,
) -> tuple[int, Frames]:  # fmt: skip
    """The stamp of the first frame, nanoseconds, and the frames of a robot that somebody operated; one episode.

    A frame each 1/`rate` seconds, from when all topics have spoken until the last one has: the newest message of each,
    by the stamp of its header or else by when it was received. readers: of the topics; all but `state` and `action` are
    cameras, whose images are square, `image_size`. Raises ValueError, naming the topic, for one that is not there, is
    silent for longer than `max_gap_s`, changes its entries or is not finite, and as the readers do.
    """
    if not 0 < rate < np.inf:
        raise ValueError(f"the rate is {rate}; give frames a second")
    heard = _heard(bag, readers, image_size)
    stamps = {topic: np.array([stamp for stamp, _ in said], np.int64) for topic, said in heard.items()}
    times, rows = sample(stamps, rate, max_gap_s)
    chosen = {topic: [said[row][1] for row in rows[topic]] for topic, said in heard.items()}
    images = {topic: chosen[topic] for topic in readers if topic not in (state, action)}
    return int(times[0]), Frames(0, instruction, rate, images, np.stack(chosen[state]), np.stack(chosen[action]))


def sample(stamps: Mapping[str, np.ndarray], rate: float, max_gap_s: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times, int64 (T,) nanoseconds, and the row of the newest of each topic's ascending stamps at each, int64 (T,).

    Raises ValueError, naming the topic and the gap, where one is silent for longer than `max_gap_s`.
    """
    begin, end = max(s[0] for s in stamps.values()), max(s[-1] for s in stamps.values())
    for topic, said in stamps.items():
        since = np.append(said[np.searchsorted(said, begin, "right") - 1 :], end)
        gaps = np.diff(since) / NANOSECONDS
        if gaps.max() > max_gap_s:
            after_s = (since[gaps.argmax()] - begin) / NANOSECONDS
            raise ValueError(
                f"{topic} is silent for {gaps.max():.3f} s, from {after_s:.3f} s after the first frame; record it anew "
                f"or allow more than {max_gap_s:g} s with --max-gap"
            )
    count = int((end - begin) * rate / NANOSECONDS) + 1
    times = begin + np.round(np.arange(count) * NANOSECONDS / rate).astype(np.int64)
    return times, {topic: np.searchsorted(said, times, "right") - 1 for topic, said in stamps.items()}


def _heard(bag: Bag, readers: Mapping[str, Read], image_size: int) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Of each topic, by stamp, what it said."""
    heard: dict[str, list[tuple[int, np.ndarray]]] = {topic: [] for topic in readers}
    entries: dict[str, tuple] = {}
    for topic, kind, received_ns, raw in bag.messages(*readers):
        stamp_ns, named, value = readers[topic](topic, kind, raw)
        if entries.setdefault(topic, named) != named:
            raise ValueError(f"{topic} holds {entries[topic]} and later {named}; its entries must stay the same")
        if not np.isfinite(value).all():
            raise ValueError(f"{topic} holds {value.tolist()} at {received_ns} ns; leave this episode out")
        heard[topic].append((stamp_ns or received_ns, value if named else resize_crop(value, image_size)))
    return {topic: sorted(said, key=lambda pair: pair[0]) for topic, said in heard.items()}


def _check_files(bag: Path) -> None:
    """Only files of the directory may be opened."""
    names = []
    if bag.is_dir():
        with _readable(inside(bag, METADATA)):
            metadata = yaml.safe_load((bag / METADATA).read_text(encoding="utf-8"))
            names = [str(name) for name in metadata["rosbag2_bagfile_information"]["relative_file_paths"]]
    for name in names:
        inside(bag, name)
        opened = inside(bag, PurePath(name).name)  # as rosbags does: in older bags the name has their directory's too
        if not opened.is_file():
            raise ValueError(f"{opened}, which {METADATA} names, is no file; put it there")
    for letter in URI:
        if any(letter in name for name in (str(bag), *names)):
            raise ValueError(f"{bag} or a file of it has {letter!r} in its name; rename it")


def _check_type(connection: Connection) -> None:
    """A message of another definition would be read as nonsense."""
    said, definition = connection.digest, connection.msgdef
    if not said and definition.format == MessageDefinitionFormat.MSG:
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(definition.data, connection.msgtype))
        said = store.hash_rihs01(connection.msgtype)
    if said and connection.msgtype in _types().fielddefs and said != _types().hash_rihs01(connection.msgtype):
        raise ValueError(f"{connection.topic} was recorded with another definition of {connection.msgtype}")


@functools.cache
def _types() -> Typestore:
    """Messages as they are defined here: those of ROS 2, and this package's own."""
    store, own = get_typestore(Stores.ROS2_JAZZY), {}
    for path in (config_directory().parent / "msg").glob("*.msg"):
        own |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{OWN}{path.stem}")
    store.register(own)
    return store


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        around = error.object[max(0, error.start - AROUND) : error.end + AROUND]
        raise ValueError(f"{path} holds text that is not UTF-8: {around!r}") from error
    except Exception as error:  # noqa: BLE001 - whatever parsers make of bytes that are no bag
        raise ValueError(f"{path} cannot be read as a bag: {error or type(error).__name__}") from error
