# SPDX-License-Identifier: MIT
"""Robots: motion limits, the bridge that commands a robot's joints, kinematics, and the bounds of a workspace."""
