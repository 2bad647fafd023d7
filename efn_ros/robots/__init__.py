"""What is special to a robot: its limits and the shaping of its commands."""

from efn_ros.robots.limits import ActionLimits

__all__ = ["ActionLimits"]
