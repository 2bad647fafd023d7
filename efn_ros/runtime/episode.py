# SPDX-License-Identifier: MIT
"""One episode in a simulated world: the loop that agent, training data and experiments share."""

from __future__ import annotations

from collections.abc import Iterator

from efn_ros.types import Observation, StepContext
from efn_ros.worlds.stepper import Stepper
from efn_ros.worlds.world import World


class Episode(Stepper):
    """Observations of an episode, until success or the horizon; the caller executes a chunk after each.

        for observation in episode:
            episode.execute(policy(observation))

    Attributes:
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
        decisions_after_success: int = 0,
        max_steps: int | None = None,
    ) -> None:
        """Reset the world.

        Args:
            world: As of `Stepper`.
            task: As of `Stepper`.
            scene: As of `Stepper`.
            episode_id: Of every step's context.
            execute_steps: As of `Stepper`.
            seed: Of every random choice; None: that of the scene.
            correct: Whether memory may correct.
            record: Whether the episode is stored in the bank.
            decisions_after_success: As of `Stepper`.
            max_steps: As of `Stepper`.

        Raises:
            ValueError: The world has no such task.
        """
        super().__init__(
            world,
            task,
            scene,
            execute_steps=execute_steps,
            decisions_after_success=decisions_after_success,
            max_steps=max_steps,
        )
        self.decision = 0
        self._names = (episode_id, task, world.spec.tasks[task])
        self._seed, self._correct, self._record = scene if seed is None else seed, correct, record

    def __iter__(self) -> Iterator[Observation]:
        while not self.done:
            yield self.observe()

    def observe(self) -> Observation:
        """Return the present observation."""
        images, proprio = self.world.observe()
        return Observation(self.context(), images, proprio)

    def context(self) -> StepContext:
        """Return the context of the present decision; its stamp is the time in the world."""
        episode_id, task, instruction = self._names
        stamp_ns = round(self.control_step / self.world.spec.rate_hz * 1e9)
        key = (episode_id, self.decision, stamp_ns, task, instruction)
        return StepContext(*key, self._seed, self._correct, self._record)

    def end_decision(self) -> None:
        """Go on to the next decision."""
        super().end_decision()
        self.decision += 1
