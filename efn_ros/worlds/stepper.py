# SPDX-License-Identifier: MIT
"""Execution of action chunks in one episode of a world, until success or the horizon."""

from __future__ import annotations

import numpy as np

from efn_ros.worlds.world import World


class Stepper:
    """Executes chunks, counts control steps and decides when the episode ends.

    Attributes:
        world: The world, in the scene of the episode.
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
        decisions_after_success: int = 0,
        max_steps: int | None = None,
    ) -> None:
        """Reset the world.

        Args:
            world: To run in.
            task: One of the world's.
            scene: Seed of the scene.
            execute_steps: Rows of a chunk that are executed from one decision to the next.
            decisions_after_success: Decisions that follow the one that succeeded.
            max_steps: Bound of the horizon, control steps.

        Raises:
            ValueError: The world has no such task.
        """
        self.world, self._execute_steps, self._decisions_after_success = world, execute_steps, decisions_after_success
        world.reset(task, scene)
        horizon = world.spec.horizon[task]
        self.horizon = horizon if max_steps is None else min(horizon, max_steps)
        self.control_step, self.success = 0, False
        self._decisions_since_success = 0  # the one that succeeded included

    @property
    def truncated(self) -> bool:
        """Whether the horizon was reached without success."""
        return not self.success and self.control_step >= self.horizon

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        after = self._decisions_after_success
        finished = self.success and (not after or self._decisions_since_success > after)
        return finished or self.control_step >= self.horizon

    def step(self, action: np.ndarray) -> None:
        """Execute one action (A,) for one control step; `end_decision` follows the last action of a decision."""
        self.success = self.world.step(action) or (self.success and self._decisions_after_success > 0)
        self.control_step += 1

    def execute(self, chunk: np.ndarray) -> None:
        """Execute the first `execute_steps` rows of a chunk (H, A), or fewer if the episode ends."""
        for action in chunk[: self._execute_steps]:
            if not self.done:
                self.step(action)
        self.end_decision()

    def end_decision(self) -> None:
        """Count a decision that follows a success."""
        self._decisions_since_success += self.success
