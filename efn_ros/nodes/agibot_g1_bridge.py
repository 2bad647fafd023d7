"""agibot_g1_bridge: both arms and grippers of an AgiBot G1, at 100 Hz. Not verified on hardware."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, Int32

from efn_ros.msg import RobotStatus
from efn_ros.robots import agibot_g1_status as spoken
from efn_ros.robots.bridge import Command, Health
from efn_ros.ros.arm_bridge import ArmBridge
from efn_ros.ros.node import Parameter, run
from efn_ros.ros.qos import SENSOR_DATA, STEPS

try:
    import genie_msgs.msg as genie
except ImportError:  # comes with the robot's SDK
    genie = None

WITHOUT_SDK = "genie_msgs is not installed: status comes as efn_ros/RobotStatus alone"


class AgibotG1Bridge(ArmBridge):
    """In: status; with genie_msgs whole_body_status and motion_control_status; <gripper>_state. Out: arm_command,
    <gripper>_command, motion_stop.

    Grippers whose joint has a name are part of arm_state and arm_command; the others have topics of their own.
    """

    PARAMETERS = (
        *ArmBridge.PARAMETERS,
        Parameter("grippers.joints", [""], "Names by which grippers stand in arm_state and arm_command; empty: apart."),
        Parameter("gripper_states", True, "Wait for measured grippers; false: what was commanded counts as measured."),
        Parameter("timeouts.status_s", 0.5, "A status that has spoken may be silent for so long.", 0.05, 10.0),
        Parameter("required_status", [""], "Of status, that must have spoken; those of genie_msgs must in any case."),
        Parameter("stop_input_type", 54, "input_type of a MotionStop.", 0, 255),
    )

    OPTIONAL_TOPICS = ("whole_body_status", "motion_control_status")

    def connect(self) -> Publisher:
        named = self.parameter("grippers.joints")
        self._joined = named if all(named) else []
        if self._joined and len(named) != len(self.grippers):
            raise ValueError(f"grippers.joints has {len(named)} entries; there are {len(self.grippers)} grippers")
        known = () if genie is None else self.OPTIONAL_TOPICS
        required = {*known, *filter(None, self.parameter("required_status"))}
        self._reports = spoken.Reports(("status", *known), self.parameter("timeouts.status_s"), required)
        self.diagnostics.facts["messages"] = WITHOUT_SDK if genie is None else "genie_msgs"
        self._out = self.publisher(JointState, "arm_command", STEPS)
        self.listen(
            RobotStatus, "status", partial(self._on_status, "status", spoken.robot_status), SENSOR_DATA, inactive=True
        )
        if genie is not None:
            for source, kind, faults in (
                ("whole_body_status", genie.WholeBodyStatus, spoken.whole_body),
                ("motion_control_status", genie.MotionControlStatus, spoken.motion_control),
            ):
                self.listen(kind, source, partial(self._on_status, source, faults), SENSOR_DATA, inactive=True)
        self._grips = []
        for index, gripper in enumerate(self.grippers if not self._joined else []):
            self._grips.append(self.publisher(JointState, f"{gripper.name}_command", STEPS))
            kind = JointState if genie is None else genie.EndState
            self.listen(kind, f"{gripper.name}_state", partial(self._on_gripper, index), SENSOR_DATA, inactive=True)
        self._stop_out = self.publisher(Int32 if genie is None else genie.MotionStop, "motion_stop", STEPS)
        self._told_is_measured = not self.parameter("gripper_states")
        if self._told_is_measured:
            self.closures[:] = 0.0
        return self._out

    def send(self, command: Command) -> None:
        header = Header(stamp=self.get_clock().now().to_msg())
        moved = np.flatnonzero(np.isfinite(command.closures))
        values = {i: self.grippers[i].command(float(command.closures[i])) for i in moved}
        names, positions = list(self.joints), command.posture.tolist()
        for i, joint in enumerate(self._joined):
            if i in values:
                names.append(joint)
                positions.append(values[i])
        self._out.publish(JointState(header=header, name=names, position=positions))
        for i, out in enumerate(self._grips):
            if i in values:
                out.publish(JointState(header=header, name=[self.grippers[i].name], position=[values[i]]))
        if self._told_is_measured:
            self.closures[moved] = command.closures[moved]

    def halt(self, reason: str) -> None:
        kind = self.parameter("stop_input_type")
        self._stop_out.publish(Int32(data=kind) if genie is None else genie.MotionStop(input_type=kind))

    def _on_state(self, state: JointState) -> None:
        names = list(state.name)
        for i, joint in enumerate(self._joined):
            if joint in names:
                self.closures[i] = self.grippers[i].closure(state.position[names.index(joint)])
        super()._on_state(state)

    def _on_gripper(self, index: int, state) -> None:
        """Of a JointState, or an EndState of genie_msgs."""
        measured = state.position[0] if genie is None else state.end_state[0].position
        if not np.isfinite(measured):
            raise ValueError(f"gripper {self.grippers[index].name!r} is measured at {measured}")
        self.closures[index] = self.grippers[index].closure(float(measured))

    def _on_status(self, source: str, faults, status) -> None:
        try:
            said = faults(status)
        except AttributeError as error:
            said = [f"{source} is of another version of genie_msgs: {error}"]
        self._reports.hear(source, said, time.monotonic())

    def heard(self) -> Health:
        return self._reports.health(time.monotonic())


def main() -> None:
    run(lambda: AgibotG1Bridge("agibot_g1_bridge"), leaves=True)
