# SPDX-License-Identifier: MIT
"""Subscribe to the corrected action: the only topic that a robot has to follow.

Start a graph (./efn bringup metaworld_sim), run this beside it, and begin an episode.
"""

from __future__ import annotations

import rclpy
from efn_ros.msg import CorrectedAction
from rclpy.executors import ExternalShutdownException

from efn_ros.ros.conversions import chunk_from_msg
from efn_ros.ros.qos import STEPS


def on_action(action: CorrectedAction) -> None:
    """Print what to execute: the first control step of H, whatever the mode is."""
    chunk = chunk_from_msg(action.corrected)  # float32 (H, A), one row a control step
    print(f"step {action.context.step}, mode {action.mode} {action.reason}: {chunk[0]}", flush=True)


def main() -> None:
    """Listen until Ctrl-C."""
    rclpy.init()
    node = rclpy.create_node("subscriber")
    node.create_subscription(CorrectedAction, "/efn/corrected_action", on_action, STEPS)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
