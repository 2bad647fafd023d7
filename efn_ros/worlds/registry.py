"""The one place that knows the names of the simulators."""

from __future__ import annotations

from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.world import TITLES, World


def make_world(name: str, *, deployment: Deployment | None = None, image_size: int = 96, **settings) -> World:
    """Build the world called `name` ("metaworld" or "libero") in a deployment (none: as the policy was trained).

    Simulators are imported here, when asked for. Raises ValueError for another name.
    """
    deployment = deployment or Deployment()
    if name == "metaworld":
        from efn_ros.worlds.metaworld import MetaWorld

        return MetaWorld(deployment=deployment, image_size=image_size, **settings)
    if name == "libero":
        from efn_ros.worlds.libero import LiberoWorld

        return LiberoWorld(deployment=deployment, image_size=image_size, **settings)
    raise ValueError(f"world {name!r} is unknown; there are {' and '.join(map(repr, TITLES))}")


def world_tasks(name: str, assets: str = "") -> dict[str, str]:
    """Task name to instruction of the world called `name`, without building it. assets: LIBERO's, see LiberoWorld."""
    if name == "metaworld":
        from efn_ros.worlds.metaworld import TASKS

        return TASKS
    if name == "libero":
        from efn_ros.worlds.libero import LiberoWorld

        return LiberoWorld.tasks(assets=assets)
    raise ValueError(f"world {name!r} is unknown; there are {' and '.join(map(repr, TITLES))}")
