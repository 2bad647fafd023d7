"""observe -> infer -> recall -> correct -> act -> remember, in one process and without ROS.

The nodes are these same parts with topics between them; in lockstep both give the same actions, bit for bit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from efn_ros.bank import BankWriter, RolloutRecorder
from efn_ros.correction.corrector import Corrector
from efn_ros.retrieval import Retriever
from efn_ros.runtime.inference import Inference
from efn_ros.types import Correction, Observation, Outcome, PolicyStep, Recall, StepContext
from efn_ros.worlds.stepper import Stepper
from efn_ros.worlds.world import World


@dataclass(frozen=True)
class EpisodeResult:
    """length: control steps. corrections: one a decision."""

    episode_id: str
    task: str
    seed: int
    success: bool
    length: int
    corrections: tuple[Correction, ...]


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
        """One decision."""
        step = self._inference(observation)
        recall = Recall(reason="no memory")
        if self._retriever and observation.context.correct:
            self._retriever.look(observation)
            recall = self._retriever.recall(step)
        return step, recall, self._corrector.correct(step, recall)

    def run(
        self,
        world: World,
        task: str,
        seed: int,
        *,
        episode_id: str,
        execute_steps: int,
        correct: bool = True,
        record: bool = True,
        draws: int | None = None,
    ) -> EpisodeResult:
        """One whole episode in the scene `seed`; remembered on return, if there is a writer and `record` is set.

        draws: seed of what recall and exploration draw, where the same scene is met again; else that of the scene.
        """
        if self._retriever and correct:
            self._retriever.warm()
        stepper = Stepper(world, task, seed, execute_steps=execute_steps)
        instruction = world.spec.tasks[task]
        if record and self._writer:
            self._recorder.begin(
                episode_id,
                robot=self._robot,
                task=task,
                instruction=instruction,
                seed=seed,
                start_ns=time.time_ns(),
            )
        corrections = []
        while not stepper.done:
            images, proprio = stepper.observe()
            stamp_ns = round(stepper.control_step / world.spec.rate_hz * 1e9)
            where = (episode_id, len(corrections), stamp_ns, task, instruction)
            context = StepContext(*where, seed if draws is None else draws, correct, record)
            observation = Observation(context, images, proprio)
            step, _, correction = self.act(observation)
            if record and self._writer:
                for item in (observation, step, correction):
                    self._recorder.add(item)
            stepper.execute(correction.corrected)
            corrections.append(correction)
        if record and self._writer:
            outcome = Outcome.SUCCESS if stepper.success else Outcome.FAILURE
            rollout = self._recorder.finish(outcome, length=stepper.control_step)
            if rollout:
                self._writer.append(rollout)
                self._writer.retain()
        return EpisodeResult(episode_id, task, seed, stepper.success, stepper.control_step, tuple(corrections))

    def close(self) -> None:
        """Release the bank."""
        if self._writer:
            self._writer.close()
