"""Meta-World, a simulated Sawyer arm: the frozen policy, its memory and its correction."""

from efn_ros.ros.launching import describe


def generate_launch_description():
    return describe("metaworld_sim")
