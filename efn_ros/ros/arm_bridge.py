"""The ROS side of a bridge to a robot's arms, but for how the robot is spoken to; `efn_ros.robots.bridge` decides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import State as LifecycleState
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from efn_ros.msg import BridgeState, CorrectedAction
from efn_ros.robots.bridge import Command, Health, StartRefusedError, State
from efn_ros.robots.realtime import lock_memory, run_first
from efn_ros.ros import conversions
from efn_ros.ros.diagnostics import ERROR, OK, WARN
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.qos import LATCHED, SENSOR_DATA, STEPS
from efn_ros.runtime.bridge_factory import make_bridge
from efn_ros.types import Mode

UNHEARD = Health(notes=("this robot says nothing of its mode, errors or e-stop",))
OPERATOR, WHEN_READY = "operator", "when ready"
RETRY_S = 1.0
LEAST_GAP = 0.5  # of a period: a tick that comes sooner after the one before is left out
LEVELS = {State.TRACKING: OK, State.HOLDING: OK, State.IDLE: WARN, State.YIELDED: WARN, State.STOPPED: ERROR}


class ArmBridge(EfnNode):
    """In: arm_state, corrected_action. Out: bridge_state; proprioception, joints and grippers in the order of an
    action. Services: ~/stop, ~/reset, ~/hand_over, ~/take_back.

    Nothing is commanded before it is activated, and it activates only where every start condition holds.
    """

    PARAMETERS = (
        Parameter("activate", OPERATOR, "Who activates it: operator, by ros2 lifecycle set; or: when ready."),
        Parameter("command_rate_hz", 100.0, "Commands a second.", 10.0, 1000.0),
        Parameter("action_rate_hz", 30.0, "Rows of an action chunk a second.", 1.0, 1000.0),
        Parameter("action.kind", "absolute", "What a joint's entry is: its position (absolute), or delta of it; rad."),
        Parameter("action.joints", [0], "Entries of an action that are joints, in the order of joints.names."),
        Parameter("action.grippers", [-1], "Entries that are grippers, in the order of grippers.names; -1: none."),
        Parameter("joints.names", [""], "Joints, as arm_state names them, in the order of action.joints."),
        Parameter("joints.by_order", False, "Take as many nameless or otherwise named positions in this order."),
        Parameter("joints.low", [0.0], "Least position of each joint, rad."),
        Parameter("joints.high", [0.0], "Greatest position, rad."),
        Parameter("joints.velocity", [0.0], "rad/s."),
        Parameter("joints.acceleration", [0.0], "rad/s^2."),
        Parameter("joints.jerk", [0.0], "rad/s^3."),
        Parameter("joints.tracking", [0.0], "Largest |command - measured|, rad; beyond it nothing is sent."),
        Parameter("joints.reject", [0.0], "Jump of an action that is refused, rad."),
        Parameter("speed_scale", 1.0, "Of velocity, acceleration and jerk; 0.1 for a first run.", 0.01, 1.0),
        Parameter("grippers.names", [""], "Grippers; empty: none."),
        Parameter("grippers.opened", [0.0], "The robot's own value of an open gripper."),
        Parameter("grippers.closed", [1.0], "And of a closed one."),
        Parameter("timeouts.state_s", 0.1, "Age of joint states beyond which it holds.", 0.001, 10.0),
        Parameter("timeouts.action_s", 0.056, "Since the last action, beyond which it holds.", 0.001, 10.0),
        Parameter("timeouts.late_s", 0.2, "Age of what an action answers, beyond which it is dropped.", 0.001, 10.0),
        Parameter("timeouts.stop_s", 0.2, "Of holding for old states or late actions, until it stops.", 0.001, 10.0),
        Parameter("workspace.model", "", "Of the arms: agibot_g1; empty: postures are not checked."),
        Parameter("workspace.box", [0.0], "Lowest x, y, z and highest that wrists and grippers stay in, m; or one 0."),
        Parameter("workspace.keep_out", [0.0], "Boxes that no link enters, six numbers each, m; or one 0."),
        Parameter("workspace.wrists_apart_m", 0.0, "Least distance of the two wrists; 0: none.", 0.0, 2.0),
        Parameter("realtime.priority", 0, "Of SCHED_FIFO, where it is allowed; 0: none.", 0, 99),
        Parameter("realtime.lock_memory", False, "Keep the whole process in memory."),
    )

    # What the bridge to one robot fills in.

    def connect(self) -> Publisher:
        """Create the publishers and subscriptions of that robot. Returns what commands the arms."""

    def send(self, command: Command) -> None:
        """Command a posture and closures."""

    def halt(self, reason: str) -> None:
        """Tell the robot to stop, where it has a way to be told."""

    def heard(self) -> Health:
        """What the robot says of itself, where it does."""
        return UNHEARD

    # What it uses.

    _leaving = False
    _latched = ""  # why it was stopped when it was torn down: that is no reset

    def setup(self) -> None:
        p = self.parameters()
        if p["activate"] not in (OPERATOR, WHEN_READY):
            raise ValueError(f"activate is {p['activate']!r}; there are {OPERATOR!r} and {WHEN_READY!r}")
        self.bridge, self.grippers = make_bridge(p)
        self.joints, self._by_order = p["joints.names"], p["joints.by_order"]
        self.closures = np.full(len(self.grippers), np.nan)  # as measured
        # Where each entry of an action stands among joints and grippers side by side.
        self._entries = np.argsort([*p["action.joints"], *(entry for entry in p["action.grippers"] if entry >= 0)])
        if self._latched:
            self.bridge.stop(self._latched)
        self._said: tuple[State, str] | None = None
        self._simulated_time, self._stamp_ns, self._news_ns = self.parameter("use_sim_time"), -1, -1
        self._ticked_s, self._period_s = -np.inf, 1 / p["command_rate_hz"]
        self._state_out = self.publisher(BridgeState, "bridge_state", LATCHED)
        self._body_out = self.publisher(JointState, "proprioception", SENSOR_DATA)
        self.listen(JointState, "arm_state", self._on_state, SENSOR_DATA, inactive=True)
        self.listen(CorrectedAction, "corrected_action", self._on_action, STEPS)
        self.serve(Trigger, "~/stop", self._on_stop)
        for name, release in (
            ("reset", lambda: self.bridge.reset(time.monotonic())),
            ("hand_over", lambda: self.bridge.hand_over()),
            ("take_back", lambda: self.bridge.take_back(time.monotonic())),
        ):
            self.serve(Trigger, f"~/{name}", self._answer(release))
        self._commands = self.connect()
        # Commands go out at their rate whatever the time of day does.
        self.timer(self._period_s, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        locked = lock_memory() if p["realtime.lock_memory"] else "not locked"
        self.diagnostics.facts |= {"scheduling": run_first(p["realtime.priority"]), "memory": locked}
        self._examine()
        self._tell()

    def start(self) -> None:
        self.bridge.start(time.monotonic())
        self._said = None
        self._tell()

    def stop(self) -> None:
        self.bridge.idle()
        self._said = None
        self._tell()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refused while the arms move: they come to a standstill, then it may be asked again."""
        if not self.bridge.at_rest:
            self.bridge.cease()
            self.get_logger().warning("the arms come to a standstill first; deactivate it again then")
            return TransitionCallbackReturn.FAILURE
        return super().on_deactivate(state)

    def leave(self) -> None:
        """Come to a standstill, then end with a tick, so that nothing is being published; asked again, at once."""
        if self._leaving or not hasattr(self, "bridge"):
            rclpy.try_shutdown()
            return
        self._leaving = True
        self.bridge.cease()

    def teardown(self) -> None:
        bridge = self.__dict__.pop("bridge", None)  # Ruckig complains of what outlives it
        if bridge is None:
            return
        self._latched = bridge.reason if bridge.state == State.STOPPED else ""
        if not bridge.at_rest and rclpy.ok():
            self.halt("the bridge ends in motion")

    def start_by_itself(self) -> None:
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise SystemExit(f"{self.get_name()} could not start; the reason stands above")
        if self.parameter("activate") == WHEN_READY:
            self._retry = self.timer(RETRY_S, self._activate)
        else:
            name = self.get_fully_qualified_name()
            self.get_logger().info(f"waits for the operator: ros2 lifecycle set {name} activate")

    def _activate(self) -> None:
        if self.active:  # somebody else was first
            self._retry.cancel()
            return
        against = self.bridge.against_start(time.monotonic())
        if against:
            self.get_logger().info(f"not yet active: {'; '.join(against)}", throttle_duration_sec=10.0)
        elif self.trigger_activate() == TransitionCallbackReturn.SUCCESS:
            self._retry.cancel()

    def _on_state(self, state: JointState) -> None:
        """By the joints' names, or where that is allowed and their number is right, in their order."""
        by_order = self._by_order and len(state.position) == len(self.joints)
        _, positions = conversions.positions_from_msg(state, () if by_order else self.joints)
        if not conversions.from_time(state.header.stamp):  # some drivers leave it empty
            state.header.stamp = self.get_clock().now().to_msg()
        stamp_ns = conversions.from_time(state.header.stamp)
        if self._simulated_time:  # passes at a rate of its own: what is new counts from when it came
            if stamp_ns != self._stamp_ns:
                self._stamp_ns, self._news_ns = stamp_ns, time.monotonic_ns()
            stamp_ns = self._news_ns
        self.bridge.measured(positions, stamp_ns, time.monotonic())
        body = np.concatenate([positions, self.closures])[self._entries]
        if np.isfinite(body).all():
            self._body_out.publish(JointState(header=state.header, position=body.tolist()))
        else:
            self.diagnostics.counts["without_grippers"] += 1

    def _on_action(self, action: CorrectedAction) -> None:
        if action.mode == Mode.STOPPED:
            self.diagnostics.counts["corrector_stopped"] += 1  # as if no action had come: it holds
            return
        context = action.context
        age_s = (self.now_ns() - conversions.from_time(context.header.stamp)) * 1e-9
        chunk = conversions.chunk_from_msg(action.corrected)
        self.bridge.act(chunk, context.episode_id, context.step, age_s, time.monotonic())
        self.diagnostics.tick(age_s)

    def _on_stop(self, request, response):
        self.bridge.stop("stopped by the operator")
        self._issue(self.bridge.tick(time.monotonic()))
        response.success, response.message = True, self.bridge.reason
        return response

    def _answer(self, release: Callable[[], None]) -> Callable:
        def answered(request, response):
            try:
                release()
                response.success, response.message = True, f"{self.bridge.state.value}: {self.bridge.reason}"
            except StartRefusedError as error:
                response.success, response.message = False, str(error)
            self._tell()
            return response

        return answered

    def _examine(self) -> None:
        listened = self._commands.get_subscription_count() > 0
        unready = () if listened else (f"nobody listens to {self._commands.topic_name}",)
        self.bridge.health = replace(self.heard(), unready=unready)

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s - self._ticked_s < LEAST_GAP * self._period_s:
            return
        self._ticked_s = now_s
        try:
            self._examine()
            command = self.bridge.tick(now_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the robot is told to stop
            self.bridge.stop(f"{type(error).__name__}: {error}")
            command = self.bridge.tick(now_s)
        self._issue(command)
        if self._leaving and self.bridge.at_rest:
            rclpy.try_shutdown()

    def _issue(self, command: Command) -> None:
        if command.posture is not None:
            self.send(command)
        if command.halt:
            self.halt(command.reason)
        self._tell()

    def _tell(self) -> None:
        """State and counts; the state also as a message, where it has changed."""
        bridge, before = self.bridge, self._said
        for name, count in bridge.counts.items():
            self.diagnostics.counts[f"actions_{name}"] = count
        if before == (bridge.state, bridge.reason):
            return
        self._said = bridge.state, bridge.reason
        words = f"{bridge.state.value}: {bridge.reason}" if bridge.reason else bridge.state.value
        self.diagnostics.state(LEVELS[bridge.state], words)
        self.diagnostics.facts["notes"] = "; ".join(bridge.health.notes)
        stamp = self.get_clock().now().to_msg()
        self._state_out.publish(BridgeState(stamp=stamp, state=bridge.state.value, reason=bridge.reason))
        if before is not None and before[0] == bridge.state:
            return
        if bridge.state == State.STOPPED:
            self.get_logger().error(words)
        else:
            self.get_logger().info(words)
