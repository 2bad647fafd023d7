# SPDX-License-Identifier: MIT
"""trajectory_bridge: command an arm by trajectories, as ros2_control's joint_trajectory_controller accepts them."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.publisher import Publisher
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from efn_ros.ros.arm_bridge import ArmBridge
from efn_ros.ros.process import run
from efn_ros.ros.qos import STEPS


class TrajectoryBridge(ArmBridge):
    """Command an arm by trajectories of one point, due after one command period.

    Subscribes: `arm_state`, `corrected_action`.
    Publishes: `joint_trajectory`; `bridge_state`; `proprioception`, joints in the order of an action.
    Services: `~/stop`, `~/reset`, `~/hand_over`, `~/take_back`.
    """

    def connect(self) -> Publisher:
        """Create the publisher of trajectories."""
        period_ns = round(1e9 / self.parameter("command_rate_hz"))
        self._due = Duration(sec=period_ns // 1_000_000_000, nanosec=period_ns % 1_000_000_000)
        self._out = self.publisher(JointTrajectory, "joint_trajectory", STEPS)
        return self._out

    def send(self, posture: np.ndarray, closures: np.ndarray) -> None:
        """Publish a posture; such an arm has no grippers."""
        point = JointTrajectoryPoint(positions=posture.tolist(), time_from_start=self._due)
        self._out.publish(JointTrajectory(joint_names=self.joints, points=[point]))


def main() -> None:
    """Run the node."""
    run(lambda: TrajectoryBridge("trajectory_bridge"), graceful=True)
