"""A plain arm of seven joints: its camera and joint states, the frozen policy, its memory and its correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    return describe("arm_7dof")
