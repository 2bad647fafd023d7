"""The interface of a simulated world, and the one place that knows their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from efn_ros.worlds.deployment import Deployment


@dataclass(frozen=True)
class WorldSpec:
    """What a world offers.

    tasks: task name to instruction. cameras: names of the images of `observe`. low, high: (A,) bounds of an action.
    proprio_names: what each entry of proprioception is, with its unit. horizon: task name to the control steps after
    which an episode has failed. rate_hz: control rate.
    """

    name: str
    tasks: dict[str, str]
    cameras: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    proprio_names: tuple[str, ...]
    horizon: dict[str, int]
    rate_hz: float


TITLES = {"metaworld": "Meta-World", "libero": "LIBERO"}


ARMS = {"metaworld": "a simulated Sawyer arm", "libero": "a simulated Franka arm"}


class World(Protocol):
    """One simulated robot and its task; not thread-safe, one process each.

    deployment: may be replaced between episodes.
    """

    spec: WorldSpec
    deployment: Deployment

    def reset(self, task: str, seed: int) -> None:
        """Start `task` from the scene that `seed` draws. Raises ValueError for an unknown task."""

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Camera name to uint8 (size, size, 3) RGB, and proprioception float32 (P,)."""

    def step(self, action: np.ndarray) -> bool:
        """Apply one action (A,) for one control step; True once the task has succeeded."""

    def close(self) -> None: ...


class TrainingWorld(World, Protocol):
    """A world that demonstrations and lessons are made with; a policy at work never sees any of this."""

    def observe_as(self, deployment: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What `observe` would give in another deployment; as trained, these are the eyes of a teacher."""

    def expert(self) -> np.ndarray:
        """The scripted expert's action (A,) in the present state; it reads the simulator's own positions."""

    def landmarks(self) -> np.ndarray:
        """float32 (C, 3, 2): where hand, first object and goal appear to each camera, x to the right and y down, each
        from -1 to 1 across the image; beyond that out of it, infinite behind the camera."""

    def save(self) -> tuple:
        """The simulation's state, for `restore` within the same episode."""

    def restore(self, saved: tuple) -> None: ...


def lights_of(model) -> list[np.ndarray]:
    """The colours of all lights, as a MuJoCo model holds them."""
    headlight = model.vis.headlight
    return [model.light_diffuse, model.light_ambient, headlight.diffuse, headlight.ambient]
