# SPDX-License-Identifier: MIT
"""Launch the graph for an arm with seven joints: camera, joint states, frozen policy, memory and correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    """Return the launch description."""
    return describe("arm_7dof")
