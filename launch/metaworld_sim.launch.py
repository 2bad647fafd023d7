# SPDX-License-Identifier: MIT
"""Launch the graph for Meta-World, a simulated Sawyer arm: frozen policy, memory and correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    """Return the launch description."""
    return describe("metaworld_sim")
