"""Simulated worlds: what the robot runs in when there is no robot."""

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.world import TeachingWorld, World, WorldSpec, make_world, world_tasks

__all__ = ["Deployment", "TeachingWorld", "World", "WorldSpec", "make_world", "world_tasks"]
