"""What runs callbacks: rclpy's events executor where there is one, which halves the time of a hop, or the plain one."""

from __future__ import annotations

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.task import Future

try:
    from rclpy.experimental import EventsExecutor
except ImportError:  # an older rclpy
    EventsExecutor = None

SPIN_S = 1.0


def make_executor() -> Executor:
    """Runs one callback at a time, in one thread."""
    return SingleThreadedExecutor() if EventsExecutor is None else EventsExecutor()


def spin(executor: Executor) -> None:
    """Run callbacks until rclpy is shut down.

    Always with an end: without one, the events executor waits for a time that overflows, and never sleeps.
    """
    never = Future()
    while rclpy.ok():
        executor.spin_until_future_complete(never, timeout_sec=SPIN_S)
