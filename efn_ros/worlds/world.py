# SPDX-License-Identifier: MIT
"""The interface of a simulated world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from efn_ros.worlds.deployment import Deployment


@dataclass(frozen=True)
class WorldSpec:
    """Tasks, observations and actions of a world."""

    name: str  # as the parameter `world` has it
    tasks: dict[str, str]  # task name -> instruction
    cameras: tuple[str, ...]  # names of the images of `World.observe`
    low: np.ndarray  # (A,), lower bounds of an action
    high: np.ndarray  # (A,), upper bounds of an action
    proprio_names: tuple[str, ...]  # name of each entry of proprioception, with its unit
    horizon: dict[str, int]  # task name -> control steps after which an episode has failed
    rate_hz: float  # control rate


class World(Protocol):
    """One simulated robot and its task; not thread-safe, one process each."""

    spec: WorldSpec
    deployment: Deployment  # may be replaced between episodes

    def reset(self, task: str, seed: int) -> None:
        """Start a task in the scene that a seed draws.

        Raises:
            ValueError: The world has no such task.
        """
        ...

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return camera name -> image uint8 (size, size, 3) RGB, and proprioception float32 (P,)."""
        ...

    def step(self, action: np.ndarray) -> bool:
        """Apply an action (A,) for one control step, and return whether the task has succeeded."""
        ...

    def close(self) -> None:
        """Release the simulator."""
        ...


class TrainingWorld(World, Protocol):
    """A world that gives training data; a policy at work has none of this."""

    def observe_as(self, deployment: Deployment) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return what `observe` would return with the cameras and lights of another deployment."""
        ...

    def expert(self) -> np.ndarray:
        """Return the scripted expert's action (A,) in the present state; it reads the simulator's state."""
        ...

    def landmarks(self) -> np.ndarray:
        """Return where hand, first object and goal are in the image of each camera, with nominal cameras.

        Returns:
            float32 (C, 3, 2): x to the right and y down, each from -1 to 1 across the image; larger outside of it and
            infinite behind the camera.
        """
        ...

    def save(self) -> tuple[Any, ...]:
        """Return the state of the simulation, for `restore` within the same episode."""
        ...

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go back to a saved state."""
        ...
