# SPDX-License-Identifier: MIT
"""Base class of every node: declared parameters, diagnostics, and a lifecycle whose callbacks report their errors.

A node configures and activates itself unless `autostart` is false; then a lifecycle manager does.
"""

from __future__ import annotations

import array
import functools
import math
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.client import Client
from rclpy.clock import Clock
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.task import Future
from rclpy.timer import Timer
from rclpy.utilities import try_shutdown

from efn_ros.ros.diagnostics import ERROR, OK, Diagnostics
from efn_ros.runtime.experiments import OPTIONS
from efn_ros.runtime.renamed import current_parameters

MAX_INT = 2**31  # upper bound of an integer parameter without one


@dataclass(frozen=True)
class Parameter:
    """A declared parameter, which is read once when the node is configured."""

    name: str  # dotted
    default: Any  # its type is the type of the parameter
    description: str  # with the unit
    min: float | None = None  # smallest number allowed
    max: float | None = None  # largest number allowed

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor for ROS 2."""
        descriptor = ParameterDescriptor(description=self.description, read_only=True)
        if self.min is None and self.max is None:
            return descriptor
        integer = isinstance(self.default, int)
        least, most = (-MAX_INT, MAX_INT) if integer else (-math.inf, math.inf)
        low, high = least if self.min is None else self.min, most if self.max is None else self.max
        if integer:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        return descriptor


COMMON = (
    Parameter("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    Parameter("diagnostics_period_s", 1.0, "Period of /diagnostics, s.", 0.05, 60.0),
)


class EfnNode(LifecycleNode):
    """A lifecycle node, the only one of its process.

    Subclasses implement `setup`, `start`, `stop` and `teardown`. They create topics, services and timers with the
    methods of this class: these are destroyed at cleanup, and report the errors of their callbacks.

    Attributes:
        diagnostics: Published on /diagnostics.
        active: Whether the node is active.
    """

    PARAMETERS: tuple[Parameter, ...] = ()  # declared beside COMMON
    OPTIONAL_TOPICS: tuple[str, ...] = ()  # subscribed to with some parameters only, or not published by every robot

    def __init__(self, name: str) -> None:
        """Declare the parameters.

        Args:
            name: Executable, which is also the name unless a graph remaps it.
        """
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

    # Hooks of subclasses.

    def setup(self) -> None:
        """Read parameters, build the parts, create topics and services. An exception refuses the configuration."""

    def start(self) -> None:
        """Become active."""

    def stop(self) -> None:
        """Become inactive."""

    def teardown(self) -> None:
        """Release the parts that `setup` built; topics and services are destroyed afterwards."""

    def request_shutdown(self) -> None:
        """End the process; a subclass may do so later, once its robot is at rest."""
        try_shutdown()

    # Methods for subclasses.

    def parameter(self, name: str) -> Any:
        """Return the value of a parameter; an array as a list."""
        value = self.get_parameter(name).value
        return value.tolist() if isinstance(value, array.array) else value

    def parameters(self) -> dict[str, Any]:
        """Return this node's own parameters by dotted name, including the options of an experiment."""
        return {name: self.parameter(name) for name in (*(each.name for each in self.PARAMETERS), *self._options)}

    def now_ns(self) -> int:
        """Return the time of the node's clock, ns."""
        return self.get_clock().now().nanoseconds

    def subscribe(
        self, kind: type, topic: str, callback: Callable, qos: QoSProfile, *, inactive: bool = False
    ) -> Subscription:
        """Subscribe to a topic.

        Args:
            kind: Type of the messages.
            topic: Name of the topic.
            callback: Is called with each message.
            qos: Quality of service.
            inactive: Also call it while the node is not active; otherwise these messages are dropped.
        """

        def received(message: Any) -> None:
            if self.active or inactive:
                callback(message)
            else:
                self.diagnostics.counts["while_inactive"] += 1

        guarded = self.guard(received, source=topic if inactive else "")
        subscription = self.create_subscription(kind, topic, guarded, qos)
        self._entities.append((self.destroy_subscription, subscription))
        return subscription

    def serve(self, kind: Any, name: str, callback: Callable) -> None:
        """Offer a service. If the callback fails, the response has `success` false and the text of the error."""

        def refusal(error: Exception) -> Any:
            response = kind.Response()
            for field in ("message", "reason"):
                if hasattr(response, field):
                    setattr(response, field, describe_error(error))
            return response

        self._entities.append((self.destroy_service, self.create_service(kind, name, self.guard(callback, refusal))))

    def serve_text(self, kind: Any, name: str, act: Callable[[Any], str], *refusals: type[Exception]) -> None:
        """Offer a service with `success` and `message`.

        Args:
            kind: Type of the service.
            name: Name of the service.
            act: Handles a request and returns the message.
            *refusals: Errors of `act` that are only the message of a failure, and are not reported.
        """

        def serve(request: Any, response: Any) -> Any:
            try:
                response.message, response.success = act(request), True
            except refusals as error:
                response.message, response.success = str(error), False
            return response

        self.serve(kind, name, serve)

    def serve_action(
        self, kind: Any, name: str, execute: Callable, cancel: Callable[[ServerGoalHandle], CancelResponse]
    ) -> None:
        """Offer an action. `execute` is a coroutine of the goal handle; `cancel` decides whether a goal may end."""
        refuse = self.guard(cancel, lambda error: CancelResponse.REJECT)
        server = ActionServer(self, kind, name, execute, cancel_callback=refuse)
        self._entities.append((ActionServer.destroy, server))

    def client(self, kind: Any, name: str) -> Client:
        """Create a client of a service."""
        client = self.create_client(kind, name)
        self._entities.append((self.destroy_client, client))
        return client

    def when_done(self, future: Future, callback: Callable[[Any], None]) -> None:
        """Call `callback` with the result of a future.

        An exception in it is reported and never reaches the executor: in rclpy's EventsExecutor an exception of a
        done-callback ends the process with a segmentation fault (ros2/rclpy issue 1641).
        """
        future.add_done_callback(self.guard(lambda done: callback(done.result())))

    def publisher(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        """Create a publisher."""
        publisher = self.create_publisher(kind, topic, qos)
        self._entities.append((self.destroy_publisher, publisher))
        return publisher

    def timer(self, period_s: float, callback: Callable, clock: Clock | None = None) -> Timer:
        """Call `callback` every `period_s` seconds of a clock; None: of the node's own."""
        timer = self.create_timer(period_s, self.guard(callback), clock=clock)
        self._entities.append((self.destroy_timer, timer))
        return timer

    def guard(
        self, callback: Callable, on_error: Callable[[Exception], Any] = lambda error: None, source: str = ""
    ) -> Callable:
        """Return a callback that reports the exceptions of `callback` and returns `on_error(error)` after one.

        Args:
            callback: To call.
            on_error: Makes the result after an exception.
            source: As of `report`.
        """

        @functools.wraps(callback)
        def guarded(*arguments):
            try:
                return callback(*arguments)
            except Exception as error:  # noqa: BLE001 - no message may end the node
                self.report(error, source)
                return on_error(error)

        return guarded

    def report(self, error: Exception, source: str = "") -> None:
        """Count and log an error: a ValueError as refused input, any other one as a fault with its traceback.

        One after the end of ROS 2 is no fault: a signal came while the callback ran.

        Args:
            error: The error.
            source: Begins its text on the diagnostics, such as a topic; empty: none.
        """
        if not self.context.ok():
            return
        text = describe_error(error)
        self.diagnostics.error(f"{source}: {text}" if source else text)
        if isinstance(error, ValueError):
            self.get_logger().error(text, throttle_duration_sec=1.0)
        else:
            self.get_logger().error("".join(traceback.format_exception(error)), throttle_duration_sec=1.0)

    # Transitions.

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Run `setup`."""
        self._entities: list[tuple[Callable, Any]] = []  # how to destroy each entity of ROS, and the entity
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
        """Release all parts and entities."""
        return self.release()

    on_shutdown = on_cleanup

    def release(self) -> TransitionCallbackReturn:
        """Run `teardown` and destroy the entities of ROS that `setup` created."""
        self.active = False
        result = self._transition(self.teardown)
        for destroy, entity in getattr(self, "_entities", []):
            destroy(entity)
        self._entities = []
        return result

    def _transition(self, hook: Callable[[], None]) -> TransitionCallbackReturn:
        self.diagnostics.state(OK, "")
        try:
            hook()
        except Exception as error:  # noqa: BLE001 - the lifecycle needs a result after any error
            self.get_logger().error(f"{hook.__name__} failed: {type(error).__name__}: {error}")
            self.diagnostics.error(f"{hook.__name__}: {error}")
            self.diagnostics.state(ERROR, f"{hook.__name__} failed: {error}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def autostart(self) -> None:
        """Configure and activate.

        Raises:
            SystemExit: A transition failed.
        """
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise SystemExit(f"{self.get_name()} could not start; the reason is logged above")
        self.get_logger().info("active")

    def _read_old_names(self, executable: str) -> None:
        """Rename overrides that use parameter names of an earlier version."""
        values = {name: override.value for name, override in self._parameter_overrides.items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            current = current_parameters(executable, values)
        for warning in caught:
            self.get_logger().warning(str(warning.message))
        if caught:
            self._parameter_overrides = {name: RosParameter(name, value=value) for name, value in current.items()}

    def _publish_diagnostics(self) -> None:
        lifecycle = "active" if self.active else "inactive"
        self._diagnostics_out.publish(self.diagnostics.message(self.get_clock().now().to_msg(), lifecycle))


def describe_error(error: Exception) -> str:
    """Return the text of an error; unless it is a ValueError, with the name of its type."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
