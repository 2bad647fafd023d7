# SPDX-License-Identifier: MIT
"""agibot_g1_bridge: command both arms and grippers of an AgiBot G1 at 100 Hz. Not verified on hardware."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, Int32

from efn_ros.msg import RobotStatus
from efn_ros.robots.agibot_g1_status import StatusMonitor, motion_control_faults, robot_status_faults, whole_body_faults
from efn_ros.robots.bridge import Health
from efn_ros.ros.arm_bridge import ArmBridge
from efn_ros.ros.node import Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import SENSOR_DATA, STEPS

try:
    import genie_msgs.msg as genie  # pyright: ignore[reportMissingImports] - part of the robot's SDK
except ImportError:
    genie = None

WITHOUT_SDK = "genie_msgs is not installed: only efn_ros/RobotStatus is read"


class AgibotG1Bridge(ArmBridge):
    """Command both arms and grippers of an AgiBot G1.

    Subscribes: `arm_state`, `corrected_action`, `status`, `<gripper>_state`; with genie_msgs `whole_body_status`,
    `motion_control_status`.
    Publishes: `arm_command`, `<gripper>_command`, `motion_stop`; `bridge_state`; `proprioception`, joints and grippers
    in the order of an action.
    Services: `~/stop`, `~/reset`, `~/hand_over`, `~/take_back`.

    Grippers whose joint has a name are part of `arm_state` and `arm_command`; the others have topics of their own.
    """

    PARAMETERS = (
        *ArmBridge.PARAMETERS,
        Parameter("grippers.joints", [""], "Names of the grippers in arm_state and arm_command; empty: own topics."),
        Parameter("gripper_states", True, "Wait for measured grippers; false: commanded values count as measured."),
        Parameter(
            "timeouts.status_s", 0.5, "Longest silence of a status topic after its first message, s.", 0.05, 10.0
        ),
        Parameter("required_status", [""], "Status topics that must publish; those of genie_msgs must in any case."),
        Parameter("stop_input_type", 54, "input_type of a MotionStop.", 0, 255),
    )

    OPTIONAL_TOPICS = ("whole_body_status", "motion_control_status")

    def connect(self) -> Publisher:
        """Create the topics of the robot."""
        named = self.parameter("grippers.joints")
        self._gripper_joints = named if all(named) else []
        if self._gripper_joints and len(named) != len(self.grippers):
            raise ValueError(f"grippers.joints has {len(named)} entries; there are {len(self.grippers)} grippers")
        known = () if genie is None else self.OPTIONAL_TOPICS
        required = {*known, *filter(None, self.parameter("required_status"))}
        self._monitor = StatusMonitor(("status", *known), self.parameter("timeouts.status_s"), required)
        self.diagnostics.facts["messages"] = WITHOUT_SDK if genie is None else "genie_msgs"
        self._out = self.publisher(JointState, "arm_command", STEPS)
        sources = [("status", RobotStatus, robot_status_faults)]
        if genie is not None:
            sources.append(("whole_body_status", genie.WholeBodyStatus, whole_body_faults))
            sources.append(("motion_control_status", genie.MotionControlStatus, motion_control_faults))
        for source, kind, faults in sources:
            self.subscribe(kind, source, partial(self._on_status, source, faults), SENSOR_DATA, inactive=True)
        self._gripper_outs: list[Publisher] = []
        for index, gripper in enumerate(self.grippers if not self._gripper_joints else []):
            self._gripper_outs.append(self.publisher(JointState, f"{gripper.name}_command", STEPS))
            kind = JointState if genie is None else genie.EndState
            self.subscribe(kind, f"{gripper.name}_state", partial(self._on_gripper, index), SENSOR_DATA, inactive=True)
        self._stop_out = self.publisher(Int32 if genie is None else genie.MotionStop, "motion_stop", STEPS)
        self._assume_commanded = not self.parameter("gripper_states")
        if self._assume_commanded:
            self.closures[:] = 0.0
        return self._out

    def send(self, posture: np.ndarray, closures: np.ndarray) -> None:
        """Publish a posture of both arms, and the grippers that move."""
        header = Header(stamp=self.get_clock().now().to_msg())
        moved = np.flatnonzero(np.isfinite(closures)).tolist()
        values = {i: self.grippers[i].command(float(closures[i])) for i in moved}
        joined = {joint: values[i] for i, joint in enumerate(self._gripper_joints) if i in values}
        names, positions = [*self.joints, *joined], [*posture.tolist(), *joined.values()]
        self._out.publish(JointState(header=header, name=names, position=positions))
        for i, out in enumerate(self._gripper_outs):
            if i in values:
                out.publish(JointState(header=header, name=[self.grippers[i].name], position=[values[i]]))
        if self._assume_commanded:
            self.closures[moved] = closures[moved]

    def halt(self, reason: str) -> None:
        """Publish a MotionStop."""
        kind = self.parameter("stop_input_type")
        self._stop_out.publish(Int32(data=kind) if genie is None else genie.MotionStop(input_type=kind))

    def robot_health(self) -> Health:
        """Return the faults in the latest status messages."""
        return self._monitor.health(time.monotonic())

    def _on_state(self, state: JointState) -> None:
        names = list(state.name)
        for i, joint in enumerate(self._gripper_joints):
            if joint in names:
                self.closures[i] = self.grippers[i].closure(state.position[names.index(joint)])
        super()._on_state(state)

    def _on_gripper(self, index: int, state: Any) -> None:
        """Receive a JointState, or an EndState of genie_msgs."""
        measured = state.position[0] if genie is None else state.end_state[0].position
        if not np.isfinite(measured):
            raise ValueError(f"gripper {self.grippers[index].name!r} is measured at {measured}")
        self.closures[index] = self.grippers[index].closure(float(measured))

    def _on_status(self, source: str, faults: Callable[[Any], list[str]], status: Any) -> None:
        try:
            found = faults(status)
        except AttributeError as error:
            found = [f"{source} is of another version of genie_msgs: {error}"]
        self._monitor.update(source, found, time.monotonic())


def main() -> None:
    """Run the node."""
    run(lambda: AgibotG1Bridge("agibot_g1_bridge"), graceful=True)
