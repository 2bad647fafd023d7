# SPDX-License-Identifier: MIT
"""Process of a node: its executor, its signals and its exit code."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.utilities import ok, try_shutdown

from efn_ros.ros import discovery

if TYPE_CHECKING:
    from efn_ros.ros.node import EfnNode

try:  # it halves the time of a hop between two nodes
    from rclpy.experimental.events_executor import EventsExecutor as NodeExecutor
except ImportError:  # an older rclpy
    from rclpy.executors import SingleThreadedExecutor as NodeExecutor

SPIN_S = 1.0


def spin(executor: Executor, on_error: Callable[[str], object]) -> None:
    """Run callbacks until rclpy is shut down.

    Args:
        executor: Runs the callbacks.
        on_error: Is called with the text of an error of rclpy itself, such as a transition that does not fit the state
            of the lifecycle; the node continues.
    """
    never = Future()
    while ok():
        try:
            # A timeout is needed: without one, the events executor waits for a time that overflows, and never sleeps.
            executor.spin_until_future_complete(never, timeout_sec=SPIN_S)
        except RCLError as error:
            if ok():
                on_error(str(error))


def run(make_node: Callable[[], EfnNode], niceness: int = 0, *, graceful: bool = False) -> None:
    """Run one node until SIGINT or SIGTERM, then exit within a second. The main function of every executable.

    Args:
        make_node: Makes the node, after rclpy is initialised.
        niceness: Above zero for a node without deadlines, so that it yields the processor to those of the control loop.
        graceful: A signal calls the node's `request_shutdown`, which may end rclpy later.

    Raises:
        SystemExit: Always; its code is 1 if the node could not start.
    """
    faulthandler.enable()
    os.nice(niceness)  # before any thread starts: each has its own
    discovery.configure()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO if graceful else SignalHandlerOptions.ALL)
    node = make_node()
    if graceful:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: node.request_shutdown())
    executor = NodeExecutor()
    executor.add_node(node)
    code = 0
    try:
        if node.parameter("autostart"):
            node.autostart()
        gc.freeze()  # objects made so far stay alive; to examine them again and again would only cost time
        spin(executor, node.get_logger().error)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as failure:
        node.get_logger().fatal(str(failure))
        code = 1
    node.release()
    executor.shutdown(timeout_sec=0.2)
    node.destroy_node()
    try_shutdown()
    raise SystemExit(code)
