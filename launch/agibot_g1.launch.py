"""The AgiBot G1: its cameras and arm state, the frozen policy, its memory and its correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    return describe("agibot_g1")
