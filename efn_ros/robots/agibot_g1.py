# SPDX-License-Identifier: MIT
"""The arms of the AgiBot G1: names, kinematics and start posture. Numbers are from public models, see the URDF."""

from __future__ import annotations

from pathlib import Path

from efn_ros.robots.kinematics import Chain

URDF = Path(__file__).with_name("models") / "agibot_g1.urdf"
JOINTS = tuple(f"{side}_arm_joint{i}" for side in ("left", "right") for i in range(1, 8))  # of a posture (14,), rad
BASE = "arm_base_link"  # the chest: x forward, y to the left, z up while the waist is upright
WRISTS = ("arm_left_link7", "arm_right_link7")
TIPS = ("gripper_l_center_link", "gripper_r_center_link")
READY_LEFT = (-1.0745, 0.6112, 0.2796, -1.2842, 0.7306, 1.4957, -0.1876)
READY = (*READY_LEFT, *(-angle for angle in READY_LEFT))  # start posture of public clients, rad


def load_arms() -> tuple[Chain, Chain]:
    """Return the left and the right arm, each from the chest to the centre of its gripper."""
    left, right = (Chain.from_urdf(URDF, BASE, tip) for tip in TIPS)
    return left, right
