"""observe -> infer -> recall -> correct -> act -> remember, in one process and without ROS.

The nodes are these same parts with topics between them; in lockstep both give the same actions, bit for bit.
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
    """What came of one episode."""

    episode_id: str
    task: str
    scene: int  # seed of the scene
    success: bool
    length: int  # control steps
    corrections: tuple[Correction, ...]  # one a decision


class Agent:
    """The frozen policy with its memory. Without a retriever it is the base policy; without a writer it forgets."""

    def __init__(
        self,
        inference: Inference,
        corrector: Corrector,
        retriever: Retriever | None = None,
        writer: BankWriter | None = None,
        robot: str = "simulated",
    ) -> None:
        self._inference, self._corrector, self._retriever, self._writer = inference, corrector, retriever, writer
        self._recorder = RolloutRecorder()
        self._robot = robot

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
        """Run one whole episode; it is remembered on return, if there is a writer and `record` is set.

        The arguments are those of `Episode`.
        """
        records = record and self._writer is not None
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
        if records:
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
            if records:
                for item in (observation, step, correction):
                    self._recorder.add(item)
            episode.execute(correction.corrected)
            corrections.append(correction)
        if records:
            self._remember(Outcome.SUCCESS if episode.success else Outcome.FAILURE, episode.length)
        return EpisodeResult(episode_id, task, scene, episode.success, episode.length, tuple(corrections))

    def _remember(self, outcome: Outcome, length: int) -> None:
        rollout = self._recorder.finish(outcome, length=length)
        if rollout and self._writer:
            self._writer.append(rollout)
            self._writer.retain()

    def close(self) -> None:
        """Release the bank."""
        if self._writer:
            self._writer.close()
