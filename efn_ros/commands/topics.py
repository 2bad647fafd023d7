"""watch a running graph: rate, age and size of each topic, the last corrected action, the state of each node"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable

PERIOD_S = 1.0  # from one table to the next
ONCE_S = 5.0
WINDOW_S = 5.0  # that rates are taken over
SILENT_S = 3.0  # without diagnostics a node is said to be silent
HIDDEN = ("/rosout", "/parameter_events")
ACTION = "efn_ros/msg/CorrectedAction"
DIAGNOSTICS = "/diagnostics"
MODES = ("base + memory", "base action unchanged", "holding", "stopped until a reset", "shadow: base action unchanged")
LEVELS = {b"\0": "ok", b"\1": "WARN", b"\2": "ERROR", b"\3": "STALE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", default="efn", help="of the graph; '/': every topic there is")
    parser.add_argument("--once", action="store_true", help=f"one table, after --seconds (default {ONCE_S:g})")
    parser.add_argument("--seconds", type=float, help="end after this time (default: with Ctrl-C)")


def run(args: argparse.Namespace) -> int:
    seconds = args.seconds if args.seconds is not None else ONCE_S if args.once else float("inf")

    def end(signum, frame) -> None:
        raise KeyboardInterrupt

    from efn_ros.ros import discovery

    discovery.settle()
    signal.signal(signal.SIGTERM, end)
    in_place = sys.stdout.isatty() and not args.once
    with Watch(args.namespace) as watch:
        try:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                watch.spin(min(seconds if args.once else PERIOD_S, left))
                show(watch.lines(time.time()), in_place)
        except KeyboardInterrupt:
            return 0
        except BrokenPipeError:  # of `efn topics | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return 0 if watch.streams else 1


def show(lines: list[str], in_place: bool) -> None:
    if in_place:
        width = shutil.get_terminal_size().columns
        print("\x1b[H" + "".join(f"{line[:width]}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)
    else:
        print("\n".join(lines) + "\n", flush=True)


class Stream:
    """What has come on one topic. Times are seconds of the system's clock, at which messages were published."""

    def __init__(self, kind: str, began_s: float) -> None:
        self.kind = kind
        self.silence = "-"  # why nothing has come
        self.data = b""  # the last message, as it was sent
        self._began_s, self._last_s = began_s, None
        self._times: deque[float] = deque()

    def add(self, published_s: float, data: bytes) -> None:
        self.data, self._last_s = data, published_s
        if published_s >= self._began_s:  # a latched one may be from long before
            self._times.append(published_s)

    def row(self, now_s: float) -> tuple[str, str, str]:
        """Rate, age and size in words."""
        while self._times and self._times[0] < now_s - WINDOW_S:
            self._times.popleft()
        if self._last_s is None:
            return "-", self.silence, "-"
        span = now_s - self._times[0] if self._times else 0.0
        rate = (len(self._times) - 1) / span if span > 0 else 0.0
        return f"{rate:.1f}", _seconds(now_s - self._last_s), _bytes(len(self.data))


class Watch:
    """Subscribes to whatever the graph publishes; use it as a context manager, from one thread."""

    def __init__(self, namespace: str) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self._namespace = "/" + namespace.strip("/")
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("_efn_topics", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.streams: dict[str, Stream] = {}
        self._heard: set[str] = set()
        self._states: dict[str, tuple[float, str, str]] = {}  # node -> (when, level, words)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception) -> None:
        import rclpy

        self._executor.shutdown(timeout_sec=0.5)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Look for new topics, and take what comes."""
        until = time.monotonic() + seconds
        looked = float("-inf")
        while (left := until - time.monotonic()) > 0:
            if time.monotonic() - looked > PERIOD_S / 2:
                looked = time.monotonic()
                self._look()
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def lines(self, now_s: float) -> list[str]:
        """The table, and what the last action and the nodes say."""
        if not self.streams:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            return [f"no topic of namespace {self._namespace} in ROS domain {domain}: is the graph running?"]
        rows = [
            (topic, stream.kind.replace("/msg/", "/"), *stream.row(now_s))
            for topic, stream in sorted(self.streams.items())
        ]
        lines = _columns([("topic", "type", "Hz", "age", "size"), *rows], right_from=2)
        for topic, stream in sorted(self.streams.items()):
            if stream.kind == ACTION and stream.data:
                from rclpy.serialization import deserialize_message

                lines += ["", topic, *describe(deserialize_message(stream.data, message_class(ACTION)))]
        if self._states:
            rows = [
                (node, level, words) if now_s - at < SILENT_S else (node, "?", f"silent for {_seconds(now_s - at)}")
                for node, (at, level, words) in sorted(self._states.items())
            ]
            lines += ["", *_columns([("node", "level", "state"), *rows])]
        return lines

    def _look(self) -> None:
        for topic, kinds in self._topics():
            if topic in HIDDEN or topic.endswith("/transition_event"):
                continue
            stream = self.streams.setdefault(topic, Stream(kinds[0], time.time()))
            publishers = self._node.get_publishers_info_by_topic(topic)
            if topic in self._heard:
                continue
            stream.silence = "-" if publishers else "no publisher"
            if publishers:
                self._subscribe(topic, stream, [publisher.qos_profile for publisher in publishers])

    def _topics(self) -> Iterable[tuple[str, list[str]]]:
        """Those in the namespace, and those that a node in it uses: an input may be remapped to anywhere."""
        from rclpy.node import NodeNameNonExistentError

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

    def _subscribe(self, topic: str, stream: Stream, offers: list) -> None:
        from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
        from rclpy.subscription import Subscription

        try:
            kind = message_class(stream.kind)
        except (ImportError, AttributeError, ValueError):
            stream.silence = "type unknown"
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
                self._note_states(data)

        # Humble does not tell when a message was published.
        informed = hasattr(Subscription, "CallbackType")
        callback = on_message if informed else lambda data: on_message(data, None)
        self._node.create_subscription(kind, topic, callback, qos, raw=True)
        self._heard.add(topic)

    def _note_states(self, data: bytes) -> None:
        from rclpy.serialization import deserialize_message

        for status in deserialize_message(data, message_class("diagnostic_msgs/msg/DiagnosticArray")).status:
            node, _, part = status.name.rpartition(": ")
            if part == "state":
                lifecycle = next((v.value for v in status.values if v.key == "lifecycle"), "")
                words = status.message if status.message == lifecycle else f"{lifecycle}; {status.message}"
                self._states[node] = (time.time(), LEVELS[status.level], words)


def message_class(kind: str) -> type:
    """The class of "package/msg/Name". Raises ImportError, AttributeError or ValueError where there is none."""
    package, group, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.{group}"), name)


def describe(action) -> list[str]:
    """A CorrectedAction in words, with the first row of each of its chunks."""
    context = action.context
    recall = f", answered in {1000 * action.recall_s:.1f} ms" if action.recall_s == action.recall_s else ""
    source = f"step {action.rollout_step} of rollout {action.rollout_id}" if action.rollout_id else "nothing recalled"
    probed = f", exploring ({action.exploration})" if action.exploration else ""
    said = [
        ("episode", f"{context.episode_id}, step {context.step}: {context.instruction}"),
        ("mode", MODES[action.mode] + probed + (f": {action.reason}" if action.reason else "")),
        ("confidence", f"{action.confidence:.2f}{recall}"),
        (
            "success probability",
            "not known"
            if action.success_probability != action.success_probability
            else f"{action.success_probability:.2f}",
        ),
        ("trust", f"{action.trust:.2f}"),
        *((part, _row(getattr(action, part))) for part in ("base", "residual", "corrected", "proposed")),
        ("from", source),
    ]
    return [f"  {name:<10}  {words}" for name, words in said]


def _row(chunk) -> str:
    return "  ".join(f"{value:+.3f}" for value in chunk.data[: chunk.action_size])


def _columns(rows: list[tuple[str, ...]], right_from: int = 99) -> list[str]:
    """Aligned columns; from `right_from` on to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(c.rjust(w) if i >= right_from else c.ljust(w) for i, (c, w) in cells).rstrip()

    return [line(row) for row in rows]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _bytes(size: int) -> str:
    return f"{size} B" if size < 10_000 else f"{size / 1000:.0f} kB" if size < 10_000_000 else f"{size / 1e6:.0f} MB"
