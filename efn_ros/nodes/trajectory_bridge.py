"""trajectory_bridge: an arm that takes trajectories, as ros2_control's joint_trajectory_controller does."""

from __future__ import annotations

from builtin_interfaces.msg import Duration
from rclpy.publisher import Publisher
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from efn_ros.robots.bridge import Command
from efn_ros.ros.arm_bridge import ArmBridge
from efn_ros.ros.node import run
from efn_ros.ros.qos import STEPS


class TrajectoryBridge(ArmBridge):
    """Out: joint_trajectory, one point, due after one command period."""

    def connect(self) -> Publisher:
        period_ns = round(1e9 / self.parameter("command_rate_hz"))
        self._due = Duration(sec=period_ns // 1_000_000_000, nanosec=period_ns % 1_000_000_000)
        self._out = self.publisher(JointTrajectory, "joint_trajectory", STEPS)
        return self._out

    def send(self, command: Command) -> None:
        point = JointTrajectoryPoint(positions=command.posture.tolist(), time_from_start=self._due)
        self._out.publish(JointTrajectory(joint_names=self.joints, points=[point]))


def main() -> None:
    run(lambda: TrajectoryBridge("trajectory_bridge"), leaves=True)
