"""What every node of this package has: declared parameters, diagnostics, lifecycle callbacks that cannot be forgotten.

A node starts by itself (configure, then activate) unless `autostart` is false; then a lifecycle manager does.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.action import ActionServer, CancelResponse
from rclpy.clock import Clock
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from efn_ros.ros import discovery
from efn_ros.ros.diagnostics import ERROR, OK, Diagnostics
from efn_ros.ros.executor import make_executor, spin
from efn_ros.runtime.experiments import OPTIONS
from efn_ros.runtime.renamed import current_parameters

MAX_INT = 2**31  # upper bound of an integer parameter that has none of its own


@dataclass(frozen=True)
class Parameter:
    """A declared parameter, read once when the node is configured."""

    name: str
    default: Any
    description: str
    min: float | None = None  # smallest number allowed
    max: float | None = None  # largest number allowed

    def descriptor(self) -> ParameterDescriptor:
        """Return its description for ROS 2."""
        descriptor = ParameterDescriptor(description=self.description, read_only=True)
        if self.min is not None or self.max is not None:
            low, high = self.min, self.max
            if isinstance(self.default, int):
                bounds = IntegerRange(from_value=int(low or 0), to_value=int(high or MAX_INT), step=0)
                descriptor.integer_range = [bounds]
            else:
                top = float("inf") if high is None else float(high)
                descriptor.floating_point_range = [FloatingPointRange(from_value=float(low or 0.0), to_value=top)]
        return descriptor


COMMON = (
    Parameter("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    Parameter("diagnostics_period_s", 1.0, "Period of /diagnostics, seconds.", 0.05, 60.0),
)


class EfnNode(LifecycleNode):
    """A lifecycle node, one a process."""

    PARAMETERS: tuple[Parameter, ...] = ()
    OPTIONAL_TOPICS: tuple[str, ...] = ()  # it subscribes to them with some parameters, or where more is installed

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._read_old_names(name)
        for parameter in (*COMMON, *self.PARAMETERS):
            self.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
        declared = {parameter.name for parameter in self.PARAMETERS}
        self._options = [o for o in self._parameter_overrides if o.startswith(OPTIONS) and o not in declared]
        for option in self._options:
            self.declare_parameter(option, self._parameter_overrides[option].value)
        self.diagnostics = Diagnostics(self.get_name())
        self.active = False
        self._diagnostics_out = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(self.parameter("diagnostics_period_s"), self._publish_diagnostics)

    # What a node fills in.

    def setup(self) -> None:
        """Read parameters, build the parts, create publishers and subscriptions. An exception refuses to configure."""

    def start(self) -> None:
        """Become active."""

    def stop(self) -> None:
        """Become inactive."""

    def teardown(self) -> None:
        """Release what `setup` built beyond publishers and subscriptions."""

    # What a node uses.

    def parameter(self, name: str) -> Any:
        """Return the value of a parameter; an array as a list."""
        value = self.get_parameter(name).value
        return list(value) if hasattr(value, "tolist") else value  # an array of numbers comes as array.array

    def parameters(self) -> dict[str, Any]:
        """Return this node's own parameters by dotted name, with the options of an experiment."""
        return {name: self.parameter(name) for name in (*(each.name for each in self.PARAMETERS), *self._options)}

    def now_ns(self) -> int:
        """Return the time of the node's clock, ns."""
        return self.get_clock().now().nanoseconds

    def listen(self, kind, topic: str, callback: Callable, qos, *, inactive: bool = False):
        """Subscribe. Messages that arrive while the node is not active are dropped, unless `inactive`."""

        def received(message) -> None:
            if not (self.active or inactive):
                self.diagnostics.counts["while_inactive"] += 1
            else:
                callback(message)

        subscription = self.create_subscription(kind, topic, self.guard(received), qos)
        self._made.append((self.destroy_subscription, subscription))
        return subscription

    def serve(self, kind, name: str, callback: Callable) -> None:
        """Offer a service. A callback that fails is answered with `success` false and the error in words."""

        def refusal(error: Exception):
            response = kind.Response()
            for field in ("message", "reason"):
                if hasattr(response, field):
                    setattr(response, field, describe_error(error))
            return response

        self._made.append((self.destroy_service, self.create_service(kind, name, self.guard(callback, refusal))))

    def serve_action(self, kind, name: str, execute: Callable, cancel: Callable) -> None:
        """Offer an action. `execute` is a coroutine of the goal handle; `cancel` decides whether a goal may end."""
        refuse = self.guard(cancel, lambda error: CancelResponse.REJECT)
        server = ActionServer(self, kind, name, execute, cancel_callback=refuse)
        self._made.append((lambda made: made.destroy(), server))

    def when_done(self, future: Future, callback: Callable[[Any], None]) -> None:
        """Call `callback` with the result of a future.

        An exception there never reaches the executor: under rclpy's EventsExecutor one in a done-callback ends the
        process with a segmentation fault (ros2/rclpy issue 1641).
        """
        future.add_done_callback(self.guard(lambda done: callback(done.result())))

    def publisher(self, kind, topic: str, qos):
        """Create a publisher that `cleanup` destroys."""
        publisher = self.create_publisher(kind, topic, qos)
        self._made.append((self.destroy_publisher, publisher))
        return publisher

    def timer(self, period_s: float, callback: Callable, clock: Clock | None = None):
        """Call `callback` every `period_s` seconds of `clock`, the node's own if none is given."""
        timer = self.create_timer(period_s, self.guard(callback), clock=clock)
        self._made.append((self.destroy_timer, timer))
        return timer

    def guard(self, callback: Callable, on_error: Callable[[Exception], Any] = lambda error: None) -> Callable:
        """Return `callback` made safe: its exceptions are reported, and then `on_error(error)` is returned."""

        @functools.wraps(callback)
        def guarded(*arguments):
            try:
                return callback(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever a message does, the node goes on
                self.report(error)
                return on_error(error)

        return guarded

    def report(self, error: Exception) -> None:
        """Count and log an error: a ValueError is refused input, anything else a fault, logged with its traceback."""
        text = describe_error(error)
        self.diagnostics.error(text)
        if isinstance(error, ValueError):
            self.get_logger().error(text, throttle_duration_sec=1.0)
        else:
            self.get_logger().error("".join(traceback.format_exception(error)))

    # Transitions.

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Run `setup`."""
        self._made: list[tuple[Callable, Any]] = []
        return self._transition(self.setup)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Run `start`."""
        result = super().on_activate(state)
        if result == TransitionCallbackReturn.SUCCESS:
            result = self._transition(self.start)
        self.active = result == TransitionCallbackReturn.SUCCESS
        return result

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Run `stop`."""
        self.active = False
        self._transition(self.stop)
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Release everything."""
        return self.release()

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Release everything."""
        self.active = False
        return self.release()

    def release(self) -> TransitionCallbackReturn:
        """Run `teardown` and destroy what `setup` created in ROS."""
        result = self._transition(self.teardown)
        for destroy, made in getattr(self, "_made", []):
            destroy(made)
        self._made = []
        return result

    def _transition(self, hook: Callable[[], None]) -> TransitionCallbackReturn:
        self.diagnostics.state(OK, "")
        try:
            hook()
        except Exception as error:  # noqa: BLE001 - the lifecycle must get an answer, whatever went wrong
            self.get_logger().error(f"{hook.__name__} failed: {type(error).__name__}: {error}")
            self.diagnostics.error(f"{hook.__name__}: {error}")
            self.diagnostics.state(ERROR, f"{hook.__name__} failed: {error}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def start_by_itself(self) -> None:
        """Configure and activate.

        Raises:
            SystemExit: A transition failed.
        """
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise SystemExit(f"{self.get_name()} could not start; the reason is logged above")
        self.get_logger().info("active")

    def _read_old_names(self, executable: str) -> None:
        """Replace overrides under names of an earlier version by the present ones."""
        values = {name: override.value for name, override in self._parameter_overrides.items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            current = current_parameters(executable, values)
        for warning in caught:
            self.get_logger().warning(str(warning.message))
        if caught:
            self._parameter_overrides = {name: rclpy.Parameter(name, value=value) for name, value in current.items()}

    def _publish_diagnostics(self) -> None:
        lifecycle = "active" if self.active else "inactive"
        self._diagnostics_out.publish(self.diagnostics.message(self.get_clock().now().to_msg(), lifecycle))


def describe_error(error: Exception) -> str:
    """Return an error in one line: the message of a ValueError, with the name of any other kind before it."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def run(make_node: Callable[[], EfnNode], niceness: int = 0, *, leaves: bool = False) -> None:
    """Spin one node until SIGINT or SIGTERM, then exit within a second. The main function of every executable.

    Args:
        make_node: Makes the node, after rclpy is initialised.
        niceness: Above zero for a node that has time, so that it does not run where one in the robot's loop could.
        leaves: At the first signal the node's `leave` is called, which ends rclpy when it is done; a second signal
            does so at once.
    """
    faulthandler.enable()
    os.nice(niceness)  # before there are threads: each has its own
    discovery.settle()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO if leaves else SignalHandlerOptions.ALL)
    node = make_node()
    if leaves:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: node.leave())
    executor = make_executor()
    executor.add_node(node)
    code = 0
    try:
        if node.parameter("autostart"):
            node.start_by_itself()
        gc.freeze()  # what exists now stays; collecting it again and again would only cost time
        spin(executor, node.get_logger().error)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SystemExit as failure:
        node.get_logger().fatal(str(failure))
        code = 1
    node.active = False
    node.release()
    executor.shutdown(timeout_sec=0.2)
    node.destroy_node()
    rclpy.try_shutdown()
    raise SystemExit(code)
