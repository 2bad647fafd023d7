"""The count of control steps in one episode of a world: chunks executed, until success or the horizon."""

from __future__ import annotations

import numpy as np

from efn_ros.worlds.world import World


class Stepper:
    """Executes chunks and knows when the episode ends; for `Episode` and for the bridge of a simulated world alike.

    Attributes:
        horizon: Control steps after which the episode has failed.
        control_step: Control steps taken.
        success: Whether the task has succeeded.
    """

    def __init__(
        self,
        world: World,
        task: str,
        scene: int,
        *,
        execute_steps: int,
        lingers: int = 0,
        max_steps: int | None = None,
    ) -> None:
        """Reset the world to a scene; the arguments are those of `Episode`."""
        self._world, self._execute_steps, self._lingers = world, execute_steps, lingers
        world.reset(task, scene)
        horizon = world.spec.horizon[task]
        self.horizon = horizon if max_steps is None else min(horizon, max_steps)
        self.control_step = 0
        self.success = False
        self._decisions_since = 0  # the success, the one that succeeded counted

    @property
    def truncated(self) -> bool:
        """Whether the horizon was reached without success."""
        return not self.success and self.control_step >= self.horizon

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return (self.success and self._lingered) or self.control_step >= self.horizon

    @property
    def _lingered(self) -> bool:
        return not self._lingers or self._decisions_since > self._lingers

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return images and proprioception, as `World.observe`."""
        return self._world.observe()

    def step(self, action: np.ndarray) -> None:
        """Execute one action (A,) for one control step."""
        self.success = self._world.step(action) or (self.success and self._lingers > 0)
        self.control_step += 1

    def execute(self, chunk: np.ndarray) -> None:
        """Execute the first `execute_steps` rows of a chunk (H, A); stop where the episode ends."""
        for action in chunk[: self._execute_steps]:
            if not self.done:
                self.step(action)
        self.end_decision()

    def end_decision(self) -> None:
        """Count the decisions that follow a success."""
        self._decisions_since += self.success
