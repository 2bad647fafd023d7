"""Recorded images and states through the graph: `ros2 bag play` feeds it, nothing is commanded and nothing remembered."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    return describe("replay")
