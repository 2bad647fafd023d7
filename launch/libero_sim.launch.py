# SPDX-License-Identifier: MIT
"""Launch the graph for LIBERO, a simulated Franka arm: frozen policy, memory and correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    """Return the launch description."""
    return describe("libero_sim")
