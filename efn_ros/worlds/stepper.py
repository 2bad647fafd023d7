"""One episode in a world: decisions in, chunks executed, until success or the horizon."""

from __future__ import annotations

import numpy as np

from efn_ros.worlds.world import World


class Stepper:
    """Counts control steps. Used in lockstep by the bridge and by the agent alike, so both end at the same step."""

    def __init__(self, world: World, task: str, seed: int, *, execute_steps: int) -> None:
        """execute_steps: rows of a chunk that are executed before the next decision."""
        self._world, self._execute_steps = world, execute_steps
        world.reset(task, seed)
        self.horizon = world.spec.horizon[task]
        self.control_step = 0
        self.success = False

    @property
    def truncated(self) -> bool:
        return not self.success and self.control_step >= self.horizon

    @property
    def done(self) -> bool:
        return self.success or self.truncated

    def observe(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        return self._world.observe()

    def step(self, action: np.ndarray) -> None:
        """One control step with one action (A,)."""
        self.success = self._world.step(action)
        self.control_step += 1

    def execute(self, chunk: np.ndarray) -> None:
        """The first `execute_steps` rows of a chunk (H, A); stops where the episode ends."""
        for action in chunk[: self._execute_steps]:
            if not self.done:
                self.step(action)
