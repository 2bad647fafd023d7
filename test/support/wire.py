"""A bad wire between processes: what passes is lost, late or held up. For tests and benches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

PREFIX = "wire"  # of the far end: what is published on `topic` comes out of `wire/topic`
PERIOD_S = 0.002


@dataclass
class _Line:
    """One topic. loss: share. waiting: (when it is due, message)."""

    out: object
    loss: float = 0.0
    delay_s: float = 0.0
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)


class Wire(threading.Thread):
    """Relays messages unread, in their order, in a thread and a ROS context of its own; and publishes /clock, which may
    jump. A context manager."""

    def __init__(self, topics: Sequence[tuple[str, type, QoSProfile]], namespace: str = "efn", seed: int = 0) -> None:
        super().__init__(name="wire", daemon=True)
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("wire", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._rng, self._running = np.random.default_rng(seed), True
        self._stalled_until_s, self._jump_s = 0.0, 0.0
        self._clock = self._node.create_publisher(Clock, "/clock", 10)
        self._lines = {}
        for topic, kind, qos in topics:
            line = _Line(self._node.create_publisher(kind, f"{PREFIX}/{topic}", qos))
            self._lines[topic] = line
            self._node.create_subscription(kind, topic, partial(self._take, line), qos, raw=True)
        for does in (self._release, self._tell_time):
            self._node.create_timer(PERIOD_S, does)

    def __enter__(self) -> Wire:
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self._running = False
        self.join()
        self._executor.shutdown(timeout_sec=0.5)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def lose(self, share: float, *topics: str) -> None:
        """That share of the messages of these topics, or of all; each by its own chance."""
        for topic in topics or self._lines:
            self._lines[topic].loss = share

    def delay(self, seconds: float, *topics: str) -> None:
        """Every message from now on."""
        for topic in topics or self._lines:
            self._lines[topic].delay_s = seconds

    def stall(self, seconds: float) -> None:
        """Nothing comes through for so long; then all of it at once."""
        self._stalled_until_s = time.monotonic() + seconds

    def jump(self, seconds: float) -> None:
        """Set /clock so far from the time of day."""
        self._jump_s = seconds

    def run(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=PERIOD_S)

    def _take(self, line: _Line, raw: bytes) -> None:
        if self._rng.random() >= line.loss:
            line.waiting.append((time.monotonic() + line.delay_s, raw))

    def _release(self) -> None:
        now_s = time.monotonic()
        if now_s < self._stalled_until_s:
            return
        for line in self._lines.values():
            while line.waiting and line.waiting[0][0] <= now_s:
                line.out.publish(line.waiting.popleft()[1])

    def _tell_time(self) -> None:
        seconds, nanoseconds = divmod(time.time_ns() + round(self._jump_s * 1e9), 10**9)
        self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))
