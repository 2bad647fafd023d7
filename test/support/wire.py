# SPDX-License-Identifier: MIT
"""An unreliable network between processes, which loses, delays or holds messages; for tests and benches."""

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
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

PREFIX = "wire"  # of the far end: what is published on `topic` comes out of `wire/topic`
PERIOD_S = 0.002


@dataclass
class _Line:
    """One topic."""

    out: Publisher
    loss: float = 0.0  # share of the messages
    delay_s: float = 0.0
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)  # (when it is due, message)


class Wire(threading.Thread):
    """Relays serialised messages in their order, and publishes /clock, which may jump; a context manager.

    It runs in a thread and a ROS context of its own.
    """

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
        for callback in (self._release, self._publish_time):
            self._node.create_timer(PERIOD_S, callback)

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
        """Lose that share of the messages of these topics, or of all, each independently."""
        for topic in topics or self._lines:
            self._lines[topic].loss = share

    def delay(self, seconds: float, *topics: str) -> None:
        """Delay every message of these topics, or of all, from now on."""
        for topic in topics or self._lines:
            self._lines[topic].delay_s = seconds

    def stall(self, seconds: float) -> None:
        """Hold all messages for so long, then release them at once."""
        self._stalled_until_s = time.monotonic() + seconds

    def jump(self, seconds: float) -> None:
        """Set /clock so far from the time of day."""
        self._jump_s = seconds

    def run(self) -> None:
        """Relay until the end of the context."""
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

    def _publish_time(self) -> None:
        seconds, nanoseconds = divmod(time.time_ns() + round(self._jump_s * 1e9), 10**9)
        self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))
