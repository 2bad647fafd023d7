# SPDX-License-Identifier: MIT
"""Names of the simulated worlds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from efn_ros.plugins import PluginGroup
from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.world import TrainingWorld, WorldSpec

TITLES = {"metaworld": "Meta-World", "libero": "LIBERO"}
ARMS = {"metaworld": "a simulated Sawyer arm", "libero": "a simulated Franka arm"}
# An entry point of another distribution names a function (deployment: Deployment, image_size: int) -> World.
WORLDS = PluginGroup(
    group="efn_ros.worlds",
    kind="world",
    own=tuple(TITLES),
    interface="World",
    members={"spec": WorldSpec, "deployment": Deployment}
    | dict.fromkeys(("reset", "observe", "step", "close"), Callable),
)


def make_world(
    name: str, *, deployment: Deployment | None = None, image_size: int = 96, **settings: Any
) -> TrainingWorld:
    """Build a world; its simulator is imported only here, so that the other need not be installed.

    Args:
        name: One of TITLES, or a world of another distribution, by its entry point in `WORLDS`; that one gives training
            data only if it is a `TrainingWorld`.
        deployment: Shifts; None: as the policy was trained.
        image_size: Height and width of the images, pixels.
        **settings: Of the class of one of TITLES.

    Raises:
        ValueError: The name is unknown, or the world of another distribution cannot be used.
    """
    if name == "metaworld":
        from efn_ros.worlds.metaworld import MetaWorld

        return MetaWorld(deployment=deployment, image_size=image_size, **settings)
    if name == "libero":
        from efn_ros.worlds.libero import LiberoWorld

        return LiberoWorld(deployment=deployment, image_size=image_size, **settings)
    return WORLDS.make(name, deployment=deployment or Deployment(), image_size=image_size)


def world_tasks(name: str, assets: str = "") -> dict[str, str]:
    """Return task name -> instruction of a world; one of TITLES is not built for that.

    Args:
        name: As of `make_world`.
        assets: Directory of LIBERO's data, see `libero_files.find_files`.

    Raises:
        ValueError: As of `make_world`.
    """
    if name == "metaworld":
        from efn_ros.worlds.metaworld import TASKS

        return TASKS
    if name == "libero":
        from efn_ros.worlds.libero_files import read_tasks

        return read_tasks(assets=assets)
    with closing(make_world(name)) as world:
        return world.spec.tasks
