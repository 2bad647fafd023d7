"""One episode in a simulated world: the loop that agent, training data and experiments share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from efn_ros.types import Observation, StepContext
from efn_ros.worlds.stepper import Stepper
from efn_ros.worlds.world import World


class Episode:
    """Observations one after the other, until success or the horizon; each is answered with `execute`.

        for observation in episode:
            episode.execute(policy(observation))

    Attributes:
        world: The world, in the scene of the episode.
        decision: Index of the present decision.
    """

    def __init__(
        self,
        world: World,
        task: str,
        scene: int,
        *,
        episode_id: str,
        execute_steps: int,
        seed: int | None = None,
        correct: bool = True,
        record: bool = True,
        lingers: int = 0,
        max_steps: int | None = None,
    ) -> None:
        """Reset the world.

        Args:
            world: To run in.
            task: One of the world's.
            scene: Seed of the scene.
            episode_id: Of every step's context.
            execute_steps: Rows of a chunk that are executed from one decision to the next.
            seed: Of every random choice; None takes that of the scene.
            correct: Whether memory may correct.
            record: Whether the episode is remembered.
            lingers: Decisions that follow the one that succeeded.
            max_steps: Bound of the horizon, control steps.

        Raises:
            ValueError: The world has no such task.
        """
        self.world, self.decision = world, 0
        self._stepper = Stepper(world, task, scene, execute_steps=execute_steps, lingers=lingers, max_steps=max_steps)
        self._named = (episode_id, task, world.spec.tasks[task])
        self._seed, self._correct, self._record = scene if seed is None else seed, correct, record

    @property
    def success(self) -> bool:
        """Whether the task has succeeded."""
        return self._stepper.success

    @property
    def length(self) -> int:
        """Control steps taken."""
        return self._stepper.control_step

    @property
    def horizon(self) -> int:
        """Control steps after which the episode has failed."""
        return self._stepper.horizon

    def __iter__(self) -> Iterator[Observation]:
        while not self._stepper.done:
            yield self.observe()

    def observe(self) -> Observation:
        """Return what the robot sees now."""
        images, proprio = self._stepper.observe()
        return Observation(self.context(), images, proprio)

    def context(self) -> StepContext:
        """Return the context of the present decision; its stamp is the time in the world."""
        episode_id, task, instruction = self._named
        stamp_ns = round(self.length / self.world.spec.rate_hz * 1e9)
        where = (episode_id, self.decision, stamp_ns, task, instruction)
        return StepContext(*where, self._seed, self._correct, self._record)

    def execute(self, chunk: np.ndarray) -> None:
        """Execute a chunk (H, A), up to the next decision or the episode's end."""
        self._stepper.execute(chunk)
        self.decision += 1

    def step(self, action: np.ndarray) -> None:
        """Execute one action (A,), for whoever decides at every control step; `end_decision` follows the last."""
        self._stepper.step(action)

    def end_decision(self) -> None:
        """Go on to the next decision, after `step`."""
        self._stepper.end_decision()
        self.decision += 1
