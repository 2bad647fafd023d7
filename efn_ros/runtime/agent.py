# SPDX-License-Identifier: MIT
"""The loop in one process and without ROS: observe, infer, recall, correct, act, store.

The nodes run the same parts with topics between them; in lockstep both give the same actions, bit for bit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from efn_ros.bank import BankWriter, RolloutRecorder
from efn_ros.correction import Corrector
from efn_ros.retrieval import Retriever
from efn_ros.runtime.episode import Episode
from efn_ros.runtime.inference import Inference
from efn_ros.types import Correction, Observation, Outcome, PolicyStep, Recall
from efn_ros.worlds.world import World


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode."""

    episode_id: str  # as of `StepContext`
    task: str  # name
    scene: int  # seed of the scene
    success: bool  # whether the task succeeded
    length: int  # control steps
    corrections: tuple[Correction, ...]  # one per decision


class Agent:
    """The frozen policy with its memory."""

    def __init__(
        self,
        inference: Inference,
        corrector: Corrector,
        retriever: Retriever | None = None,
        writer: BankWriter | None = None,
        robot: str = "simulated",
    ) -> None:
        """Assemble the parts.

        Args:
            inference: The policy.
            corrector: Of its actions.
            retriever: Of experience; None: the base policy alone.
            writer: Of the bank; None: no episode is stored.
            robot: Name of the robot, stored with each episode.
        """
        self._inference, self._corrector, self._retriever, self._writer = inference, corrector, retriever, writer
        self._recorder, self._robot = RolloutRecorder(), robot

    def act(self, observation: Observation) -> tuple[PolicyStep, Recall, Correction]:
        """Make one decision."""
        step = self._inference(observation)
        recall = Recall(reason="no memory")
        if self._retriever and observation.context.correct:
            self._retriever.observe(observation)
            recall = self._retriever.recall(step.query)
        return step, recall, self._corrector.correct(step, recall)

    def run(
        self,
        world: World,
        task: str,
        scene: int,
        *,
        episode_id: str,
        execute_steps: int,
        correct: bool = True,
        record: bool = True,
        seed: int | None = None,
    ) -> EpisodeResult:
        """Run one whole episode, and store it if there is a writer and `record` is set.

        The arguments are those of `Episode`.
        """
        writer = self._writer if record else None
        if self._retriever and correct:
            self._retriever.prefetch()
        episode = Episode(
            world,
            task,
            scene,
            episode_id=episode_id,
            execute_steps=execute_steps,
            seed=seed,
            correct=correct,
            record=record,
        )
        if writer:
            self._recorder.begin(
                episode_id,
                robot=self._robot,
                task=task,
                instruction=world.spec.tasks[task],
                seed=scene,
                start_ns=time.time_ns(),
            )
        corrections = []
        for observation in episode:
            step, _, correction = self.act(observation)
            if writer:
                for item in (observation, step, correction):
                    self._recorder.add(item)
            episode.execute(correction.corrected)
            corrections.append(correction)
        length, outcome = episode.control_step, Outcome.SUCCESS if episode.success else Outcome.FAILURE
        if writer and (rollout := self._recorder.finish(outcome, length=length)):
            writer.append(rollout)
            writer.prune()
        return EpisodeResult(episode_id, task, scene, episode.success, length, tuple(corrections))

    def close(self) -> None:
        """Release the bank."""
        if self._writer:
            self._writer.close()
