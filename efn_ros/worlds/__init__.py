"""Simulated worlds: what the robot runs in when there is no robot."""

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.registry import make_world, world_tasks
from efn_ros.worlds.world import TrainingWorld, World, WorldSpec

__all__ = ["Deployment", "TrainingWorld", "World", "WorldSpec", "make_world", "world_tasks"]
