# SPDX-License-Identifier: MIT
"""Simulated worlds, with the shifts of a deployment and scripted experts."""

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.registry import make_world, world_tasks
from efn_ros.worlds.world import TrainingWorld, World, WorldSpec

__all__ = ["Deployment", "TrainingWorld", "World", "WorldSpec", "make_world", "world_tasks"]
