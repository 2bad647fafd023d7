# SPDX-License-Identifier: MIT
"""Launch the graph for recorded images and states of `ros2 bag play`; nothing is commanded."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    """Return the launch description."""
    return describe("replay")
