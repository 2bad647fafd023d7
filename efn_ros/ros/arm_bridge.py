# SPDX-License-Identifier: MIT
"""Base class of the nodes that command a robot's arms: ROS topics around `efn_ros.robots.bridge`, which decides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import State as LifecycleState
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.utilities import ok
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from efn_ros.msg import BridgeState, CorrectedAction
from efn_ros.robots.bridge import Command, Health, StartRefusedError, State
from efn_ros.robots.realtime import lock_memory, set_priority
from efn_ros.ros import conversions
from efn_ros.ros.diagnostics import ERROR, OK, WARN
from efn_ros.ros.fields import from_time, joint_positions
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.qos import LATCHED, SENSOR_DATA, STEPS
from efn_ros.runtime.bridge_factory import make_bridge
from efn_ros.types import Mode

NO_STATUS = Health(notes=("this robot publishes neither its mode nor errors nor e-stop",))
OPERATOR, WHEN_READY = "operator", "when ready"
RETRY_S = 1.0  # between two attempts to activate
MIN_PERIODS = 0.5  # share of a command period; an earlier tick is skipped
LEVELS = {State.TRACKING: OK, State.HOLDING: OK, State.IDLE: WARN, State.YIELDED: WARN, State.STOPPED: ERROR}


class ArmBridge(EfnNode):
    """Base of a bridge to a robot's arms. It activates only if every start condition holds.

    Subscribes: `arm_state`, `corrected_action`.
    Publishes: `bridge_state`; `proprioception`, joints and grippers in the order of an action.
    Services: `~/stop`, `~/reset`, `~/hand_over`, `~/take_back`.
    """

    PARAMETERS = (
        Parameter("activate", OPERATOR, "Who activates the node: operator, by ros2 lifecycle set; or: when ready."),
        Parameter("command_rate_hz", 100.0, "Commands a second.", 10.0, 1000.0),
        Parameter("action_rate_hz", 30.0, "Rows of an action chunk a second.", 1.0, 1000.0),
        Parameter("action.kind", "absolute", "Entry of a joint: its position (absolute), or the change (delta); rad."),
        Parameter("action.joints", [0], "Entries of an action that are joints, in the order of joints.names."),
        Parameter("action.grippers", [-1], "Entries that are grippers, in the order of grippers.names; -1: none."),
        Parameter("joints.names", [""], "Names of the joints in arm_state, in the order of action.joints."),
        Parameter("joints.by_order", False, "Match joints by their order if their number fits, whatever their names."),
        Parameter("joints.low", [0.0], "Lower position limit of each joint, rad."),
        Parameter("joints.high", [0.0], "Upper position limit, rad."),
        Parameter("joints.velocity", [0.0], "Velocity limit, rad/s."),
        Parameter("joints.acceleration", [0.0], "Acceleration limit, rad/s^2."),
        Parameter("joints.jerk", [0.0], "Jerk limit, rad/s^3."),
        Parameter("joints.tracking", [0.0], "Largest |command - measured|, rad; beyond it nothing is sent."),
        Parameter("joints.reject", [0.0], "Jump of an action beyond which it is refused, rad."),
        Parameter("speed_scale", 1.0, "Scale of velocity, acceleration and jerk; 0.1 for a first run.", 0.01, 1.0),
        Parameter("grippers.names", [""], "Names of the grippers; empty: none."),
        Parameter("grippers.opened", [0.0], "The robot's own value of an open gripper."),
        Parameter("grippers.closed", [1.0], "The robot's own value of a closed gripper."),
        Parameter("timeouts.state_s", 0.1, "Age of joint states beyond which the bridge holds, s.", 0.001, 10.0),
        Parameter("timeouts.action_s", 0.056, "Time since the last action beyond which it holds, s.", 0.001, 10.0),
        Parameter("timeouts.late_s", 0.2, "Age of an action's observation beyond which it is dropped, s.", 0.001, 10.0),
        Parameter("timeouts.stop_s", 0.2, "Time of old states or late actions after which it stops, s.", 0.001, 10.0),
        Parameter("workspace.model", "", "Model of the arms: agibot_g1; empty: postures are not checked."),
        Parameter("workspace.box", [0.0], "Box for wrists and grippers: lowest, then highest x, y, z, m; one 0: none."),
        Parameter("workspace.keep_out", [0.0], "Boxes that no link may enter, six numbers each, m; one 0: none."),
        Parameter("workspace.wrists_apart_m", 0.0, "Least distance of the two wrists, m; 0: no bound.", 0.0, 2.0),
        Parameter("realtime.priority", 0, "Priority of SCHED_FIFO, where it is allowed; 0: not used.", 0, 99),
        Parameter("realtime.lock_memory", False, "Keep the whole process in memory."),
    )

    # Hooks of the bridge to one robot.

    def connect(self) -> Publisher:
        """Create the topics of the robot; return the publisher that commands the arms."""
        raise NotImplementedError

    def send(self, posture: np.ndarray, closures: np.ndarray) -> None:
        """Command a posture (J,), rad, and closures (G,); NaN: leave the gripper alone."""
        raise NotImplementedError

    def halt(self, reason: str) -> None:
        """Command the robot to stop; does nothing unless the robot has a message for it."""

    def robot_health(self) -> Health:
        """Return the status that the robot published."""
        return NO_STATUS

    # Lifecycle.

    _ending = False  # whether the process ends once the arms rest
    _stop_reason = ""  # why the bridge was stopped when it was torn down: a cleanup is no reset

    def setup(self) -> None:
        """Build the bridge and create its topics."""
        p = self.parameters()
        if p["activate"] not in (OPERATOR, WHEN_READY):
            raise ValueError(f"activate is {p['activate']!r}; choose {OPERATOR!r} or {WHEN_READY!r}")
        self.bridge, self.grippers = make_bridge(p)
        self.joints, self._by_order = p["joints.names"], p["joints.by_order"]
        self.closures = np.full(len(self.grippers), np.nan)  # as measured
        # Order of joints and then grippers in an action.
        self._entries = np.argsort([*p["action.joints"], *(entry for entry in p["action.grippers"] if entry >= 0)])
        if self._stop_reason:
            self.bridge.stop(self._stop_reason)
        self._published: tuple[State, str] | None = None
        self._simulated_time, self._stamp_ns, self._received_ns = self.parameter("use_sim_time"), -1, -1
        self._last_tick_s, self._period_s = -np.inf, 1 / p["command_rate_hz"]
        self._state_out = self.publisher(BridgeState, "bridge_state", LATCHED)
        self._proprioception_out = self.publisher(JointState, "proprioception", SENSOR_DATA)
        self.subscribe(JointState, "arm_state", self._on_state, SENSOR_DATA, inactive=True)
        self.subscribe(CorrectedAction, "corrected_action", self._on_action, STEPS)
        self.serve_text(Trigger, "~/stop", self._on_stop)
        for name, release in (
            ("reset", lambda: self.bridge.reset(time.monotonic())),
            ("hand_over", lambda: self.bridge.hand_over()),
            ("take_back", lambda: self.bridge.take_back(time.monotonic())),
        ):
            self.serve_text(Trigger, f"~/{name}", partial(self._on_release, release), StartRefusedError)
        self._commands = self.connect()
        # Commands keep their rate when the time of day is set.
        self.timer(self._period_s, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        locked = lock_memory() if p["realtime.lock_memory"] else "not locked"
        self.diagnostics.facts |= {"scheduling": set_priority(p["realtime.priority"]), "memory": locked}
        self._update_health()
        self._publish_state()

    def start(self) -> None:
        """Hold where the robot is."""
        self.bridge.start(time.monotonic())
        self._publish_state(again=True)

    def stop(self) -> None:
        """Send nothing from now on."""
        self.bridge.deactivate()
        self._publish_state(again=True)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refuse while the arms move, and brake; a later request succeeds."""
        if not self.bridge.at_rest:
            self.bridge.brake()
            self.get_logger().warning("the arms are braking; deactivate the node again once they rest")
            return TransitionCallbackReturn.FAILURE
        return super().on_deactivate(state)

    def request_shutdown(self) -> None:
        """Brake, then end in a tick, so that no publication is interrupted; a second request ends at once."""
        if self._ending or not hasattr(self, "bridge"):
            super().request_shutdown()
        else:
            self._ending = True
            self.bridge.brake()

    def teardown(self) -> None:
        """Remove the bridge; halt the robot if it moves."""
        bridge = self.__dict__.pop("bridge", None)  # Ruckig reports objects that are left at exit
        if bridge is None:
            return
        self._stop_reason = bridge.reason if bridge.state == State.STOPPED else ""
        if not bridge.at_rest and ok():
            self.halt("the bridge ends in motion")

    def autostart(self) -> None:
        """Configure; activate once every start condition holds, or leave that to the operator."""
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise SystemExit(f"{self.get_name()} could not start; the reason is logged above")
        if self.parameter("activate") == WHEN_READY:
            self._retry = self.timer(RETRY_S, self._activate)
        else:
            name = self.get_fully_qualified_name()
            self.get_logger().info(f"waits for the operator: ros2 lifecycle set {name} activate")

    def _activate(self) -> None:
        if self.active:  # the operator was first
            self._retry.cancel()
            return
        unmet = self.bridge.unmet_conditions(time.monotonic())
        if unmet:
            self.get_logger().info(f"not yet active: {'; '.join(unmet)}", throttle_duration_sec=10.0)
        elif self.trigger_activate() == TransitionCallbackReturn.SUCCESS:
            self._retry.cancel()

    # Topics and services.

    def _on_state(self, state: JointState) -> None:
        """Match joints by name or, if that is allowed and their number fits, by order."""
        by_order = self._by_order and len(state.position) == len(self.joints)
        _, positions = joint_positions(state, () if by_order else self.joints)
        if not from_time(state.header.stamp):  # some drivers leave it empty
            state.header.stamp = self.get_clock().now().to_msg()
        stamp_ns = from_time(state.header.stamp)
        if self._simulated_time:  # it runs at a rate of its own, so the time of reception is used
            if stamp_ns != self._stamp_ns:
                self._stamp_ns, self._received_ns = stamp_ns, time.monotonic_ns()
            stamp_ns = self._received_ns
        self.bridge.update_joint_states(positions, stamp_ns, time.monotonic())
        proprioception = np.concatenate([positions, self.closures])[self._entries]
        if np.isfinite(proprioception).all():
            self._proprioception_out.publish(JointState(header=state.header, position=proprioception.tolist()))
        else:
            self.diagnostics.counts["without_grippers"] += 1

    def _on_action(self, action: CorrectedAction) -> None:
        if action.mode == Mode.STOPPED:
            self.diagnostics.counts["corrector_stopped"] += 1  # treated as no action: the bridge holds
            return
        context = action.context
        age_s = (self.now_ns() - from_time(context.header.stamp)) * 1e-9
        chunk = conversions.chunk_from_msg(action.corrected)
        self.bridge.act(chunk, context.episode_id, context.step, age_s, time.monotonic())
        self.diagnostics.tick(age_s)

    def _on_stop(self, request: Trigger.Request) -> str:
        self.bridge.stop("stopped by the operator")
        self._execute(self.bridge.tick(time.monotonic()))
        return self.bridge.reason

    def _on_release(self, release: Callable[[], None], request: Trigger.Request) -> str:
        try:
            release()
            return f"{self.bridge.state.value}: {self.bridge.reason}"
        finally:
            self._publish_state()

    def _update_health(self) -> None:
        connected = self._commands.get_subscription_count() > 0
        unready = () if connected else (f"{self._commands.topic_name} has no subscriber",)
        self.bridge.health = replace(self.robot_health(), unready=unready)

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s - self._last_tick_s < MIN_PERIODS * self._period_s:
            return
        self._last_tick_s = now_s
        try:
            self._update_health()
            self._execute(self.bridge.tick(now_s))
        except Exception as error:  # noqa: BLE001 - after any error, of sending too, the robot stops
            self.bridge.stop(f"{type(error).__name__}: {error}")
            self._execute(self.bridge.tick(now_s))
        if self._ending and self.bridge.at_rest:
            super().request_shutdown()

    def _execute(self, command: Command) -> None:
        if command.posture is not None:
            self.send(command.posture, command.closures)
        if command.halt:
            self.halt(command.reason)
        self._publish_state()

    def _publish_state(self, *, again: bool = False) -> None:
        """Update the diagnostics; publish and log the state if it changed, or again."""
        bridge, before = self.bridge, None if again else self._published
        for name, count in bridge.counts.items():
            self.diagnostics.counts[f"actions_{name}"] = count
        if before == (bridge.state, bridge.reason):
            return
        self._published = bridge.state, bridge.reason
        text = f"{bridge.state.value}: {bridge.reason}" if bridge.reason else bridge.state.value
        self.diagnostics.state(LEVELS[bridge.state], text)
        self.diagnostics.facts["notes"] = "; ".join(bridge.health.notes)
        stamp = self.get_clock().now().to_msg()
        self._state_out.publish(BridgeState(stamp=stamp, state=bridge.state.value, reason=bridge.reason))
        if before is not None and before[0] == bridge.state:
            return
        if bridge.state == State.STOPPED:
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)
