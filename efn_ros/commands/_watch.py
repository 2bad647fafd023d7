# SPDX-License-Identifier: MIT
"""A view of a running graph: its topics with their rates, its last corrected action, and the states of its nodes."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rclpy.utilities import try_shutdown

from efn_ros.msg import ActionChunk, CorrectedAction

SEARCH_S = 0.5  # from one search for topics to the next
WINDOW_S = 5.0  # over which rates are measured
SILENT_S = 3.0  # after which a node without diagnostics is silent
HIDDEN = ("/rosout", "/parameter_events")
ACTION = "efn_ros/msg/CorrectedAction"
DIAGNOSTICS = "/diagnostics"
MODES = ("base + memory", "base action unchanged", "holding", "stopped until a reset", "shadow: base action unchanged")
LEVELS = {b"\0": "ok", b"\1": "WARN", b"\2": "ERROR", b"\3": "STALE"}


class Stream:
    """The messages of one topic. Times are those of the system's clock at which messages were published, in seconds.

    Attributes:
        kind: Name of the message type.
        absence: Why there is no message.
        data: The last message, serialised.
    """

    def __init__(self, kind: str, began_s: float) -> None:
        self.kind, self.absence, self.data = kind, "-", b""
        self._began_s = began_s
        self._last_s: float | None = None
        self._times: deque[float] = deque()

    def add(self, published_s: float, data: bytes) -> None:
        """Add a message."""
        self.data, self._last_s = data, published_s
        if published_s >= self._began_s:  # a latched message may be much older
            self._times.append(published_s)

    def row(self, now_s: float) -> tuple[str, str, str]:
        """Return rate, age and size as text."""
        while self._times and self._times[0] < now_s - WINDOW_S:
            self._times.popleft()
        if self._last_s is None:
            return "-", self.absence, "-"
        span = now_s - self._times[0] if self._times else 0.0
        rate = (len(self._times) - 1) / span if span > 0 else 0.0
        return f"{rate:.1f}", _seconds(now_s - self._last_s), _bytes(len(self.data))


class Watch:
    """Subscribes to every topic of a graph; a context manager, to be used from one thread.

    Attributes:
        streams: Topic -> its messages.
    """

    def __init__(self, namespace: str) -> None:
        self.streams: dict[str, Stream] = {}
        self._namespace = "/" + namespace.strip("/")
        self._subscribed: set[str] = set()
        self._states: dict[str, tuple[float, str, str]] = {}  # node -> (time, level, state)
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("_efn_topics", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=0.5)
        self._node.destroy_node()
        try_shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Search for topics and receive messages for a time."""
        until, searched = time.monotonic() + seconds, float("-inf")
        while (left := until - time.monotonic()) > 0:
            if time.monotonic() - searched > SEARCH_S:
                searched = time.monotonic()
                self._search()
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def lines(self, now_s: float) -> list[str]:
        """Return the table of topics, the last action, and the table of nodes."""
        if not self.streams:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            return [f"no topic of namespace {self._namespace} in ROS domain {domain}: is the graph running?"]
        streams = sorted(self.streams.items())
        rows = [(topic, stream.kind.replace("/msg/", "/"), *stream.row(now_s)) for topic, stream in streams]
        lines = _columns([("topic", "type", "Hz", "age", "size"), *rows], right_from=2)
        for topic, stream in streams:
            if stream.kind == ACTION and stream.data:
                lines += ["", topic, *describe(deserialize_message(stream.data, CorrectedAction))]
        if self._states:
            rows = [
                (node, level, state) if now_s - at < SILENT_S else (node, "?", f"silent for {_seconds(now_s - at)}")
                for node, (at, level, state) in sorted(self._states.items())
            ]
            lines += ["", *_columns([("node", "level", "state"), *rows])]
        return lines

    def _search(self) -> None:
        for topic, kinds in self._topics():
            if topic in HIDDEN or topic.endswith("/transition_event") or "/_action/" in topic:
                continue
            stream = self.streams.setdefault(topic, Stream(kinds[0], time.time()))
            if topic not in self._subscribed:
                offers = [publisher.qos_profile for publisher in self._node.get_publishers_info_by_topic(topic)]
                stream.absence = "-" if offers else "no publisher"
                if offers:
                    self._subscribe(topic, stream, offers)

    def _topics(self) -> Iterator[tuple[str, list[str]]]:
        """Topics in the namespace, and topics of its nodes, as an input may be remapped to another namespace."""
        inside = self._namespace.rstrip("/") + "/"
        for topic, kinds in self._node.get_topic_names_and_types():
            if topic.startswith(inside):
                yield topic, kinds
        for name, namespace in self._node.get_node_names_and_namespaces():
            if name != self._node.get_name() and f"{namespace}/".startswith(inside):
                try:
                    yield from self._node.get_publisher_names_and_types_by_node(name, namespace)
                    yield from self._node.get_subscriber_names_and_types_by_node(name, namespace)
                except NodeNameNonExistentError:  # it has ended meanwhile
                    continue

    def _subscribe(self, topic: str, stream: Stream, offers: Sequence[QoSProfile]) -> None:
        try:
            kind = message_class(stream.kind)
        except (ImportError, AttributeError, ValueError):
            stream.absence = "type unknown"
            return
        latched = all(offer.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        reliable = latched and all(offer.reliability == QoSReliabilityPolicy.RELIABLE for offer in offers)
        qos = QoSProfile(
            depth=10,
            reliability=QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
        )

        def on_message(data: bytes, info: dict | None) -> None:
            stream.add(info["source_timestamp"] * 1e-9 if info else time.time(), data)
            if topic == DIAGNOSTICS:
                self._on_diagnostics(data)

        # rclpy of Humble does not pass on when a message was published.
        callback = on_message if hasattr(Subscription, "CallbackType") else lambda data: on_message(data, None)
        self._node.create_subscription(kind, topic, callback, qos, raw=True)  # pyright: ignore[reportArgumentType]
        self._subscribed.add(topic)

    def _on_diagnostics(self, data: bytes) -> None:
        for status in deserialize_message(data, DiagnosticArray).status:
            node, _, part = status.name.rpartition(": ")
            if part == "state":
                lifecycle = next((v.value for v in status.values if v.key == "lifecycle"), "")
                state = status.message if status.message == lifecycle else f"{lifecycle}; {status.message}"
                self._states[node] = (time.time(), LEVELS[status.level], state)


def message_class(kind: str) -> type:
    """Return the class of a message type, such as "package/msg/Name".

    Raises:
        ImportError: The package is not installed.
        AttributeError: The package has no such type.
        ValueError: `kind` is no name of a type.
    """
    package, group, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.{group}"), name)


def describe(action: CorrectedAction) -> list[str]:
    """Return lines about a corrected action, with the first row of each of its chunks."""
    context, probability = action.context, action.success_probability
    recall = "" if math.isnan(action.recall_s) else f", recalled in {1000 * action.recall_s:.1f} ms"
    exploring = f", exploring ({action.exploration})" if action.exploration else ""
    rows = [
        ("episode", f"{context.episode_id}, step {context.step}: {context.instruction}"),
        ("mode", MODES[action.mode] + exploring + (f": {action.reason}" if action.reason else "")),
        ("confidence", f"{action.confidence:.2f}{recall}"),
        ("success probability", "unknown" if math.isnan(probability) else f"{probability:.2f}"),
        ("trust", f"{action.trust:.2f}"),
        *((part, _first_row(getattr(action, part))) for part in ("base", "residual", "corrected", "proposed")),
        ("from", f"step {action.rollout_step} of rollout {action.rollout_id}" if action.rollout_id else "no recall"),
    ]
    return [f"  {name:<10}  {text}" for name, text in rows]


def _first_row(chunk: ActionChunk) -> str:
    return "  ".join(f"{value:+.3f}" for value in chunk.data[: chunk.action_size])


def _columns(rows: Sequence[tuple[str, ...]], right_from: int = 99) -> list[str]:
    """Aligned columns, those from `right_from` on to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(c.rjust(w) if i >= right_from else c.ljust(w) for i, (c, w) in cells).rstrip()

    return [line(row) for row in rows]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _bytes(size: int) -> str:
    return f"{size} B" if size < 10_000 else f"{size / 1000:.0f} kB" if size < 10_000_000 else f"{size / 1e6:.0f} MB"
