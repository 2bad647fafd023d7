# SPDX-License-Identifier: MIT
"""Launch the graph for an AgiBot G1: cameras, arm states, frozen policy, memory and correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    """Return the launch description."""
    return describe("agibot_g1")
