"""Recorded images and states, from `ros2 bag play`, through the graph: nothing is commanded."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    return describe("replay")
