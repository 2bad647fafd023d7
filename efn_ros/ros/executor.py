"""What runs callbacks: rclpy's events executor where there is one, which halves the time of a hop, or the plain one."""

from __future__ import annotations

from collections.abc import Callable

import rclpy
from rclpy._rclpy_pybind11 import RCLError
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


def spin(executor: Executor, refused: Callable[[str], None]) -> None:
    """Run callbacks until rclpy is shut down.

    Always with an end: without one, the events executor waits for a time that overflows, and never sleeps. refused: is
    told of what rclpy itself refuses, such as a transition that does not fit the lifecycle's state; the node goes on.
    """
    never = Future()
    while rclpy.ok():
        try:
            executor.spin_until_future_complete(never, timeout_sec=SPIN_S)
        except RCLError as error:
            if rclpy.ok():
                refused(str(error))
