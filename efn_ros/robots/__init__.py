"""What is special to a robot: its limits, the shaping of its commands, where its links are and where they may be."""

from efn_ros.robots.kinematics import Chain
from efn_ros.robots.workspace import Workspace

__all__ = ["Chain", "Workspace"]
