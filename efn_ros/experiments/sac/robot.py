"""A simulated robot in one deployment, corrected by an EFN: what is run in processes that may be anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from efn_ros.bank import BankReader
from efn_ros.bank.store.snapshot import FirstRollouts, SnapshotSource
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import present_of, recalled_of
from efn_ros.experiments.sac.config import MAX_SCENES, FinetuneConfig
from efn_ros.experiments.sac.replay import Transition, leaves, tree_map
from efn_ros.experiments.sac.similarity import StepSimilarity
from efn_ros.experiments.sac.transitions import (
    ActorInput,
    Experienced,
    concatenate,
    network_input,
    transitions,
)
from efn_ros.retrieval import Retriever
from efn_ros.runtime.episode import Episode
from efn_ros.runtime.factory import make_retrieval_config, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.training.collection import rollout_of, simulated_robot, uncorrected
from efn_ros.training.state import write_state
from efn_ros.types import Observation, PolicyStep, Recall, RolloutStep
from efn_ros.worlds.deployment import Deployment

BANK_SCENE, MEASURED_SCENE, RUN_SCENE = 10_000_000, 20_000_000, 30_000_000  # seeds of scenes


@dataclass(frozen=True)
class Visit:
    """Some episodes in one deployment, corrected by the EFN of a directory."""

    config: FinetuneConfig
    deployment: int
    actor: str  # directory
    seed: tuple[int, ...] = ()  # of all that is drawn
    xi: float = 1.0  # share of the bound
    measures: bool = False  # the actor's mean, from the first decision on, in scenes that are always the same


@dataclass(frozen=True)
class Visited:
    """What came of a visit."""

    outcomes: tuple[bool, ...]  # success of each episode
    rows: Transition | None  # of all that were not over within their prefix; None where all were
    succeeded: np.ndarray  # bool (B,), of the row's episode


class Robot:
    """A simulated robot in one deployment, corrected by the EFN of a directory."""

    def __init__(self, config: FinetuneConfig, deployment: int, checkpoint: str) -> None:
        graph = Graph.load(config.graph, config.overlays)
        self._config, self._deployment = config, deployment
        self._writer = graph.parameters("bank_writer")
        self._execute_steps = graph.world["execute_steps"]
        self._inference, self._world = simulated_robot(config.graph, config.overlays)
        self._world.deployment = Deployment.sample(deployment)
        self._actor = Efn.from_pretrained(checkpoint)
        retrieval = make_retrieval_config({**graph.parameters("experience_retrieval"), "codes": ""})
        sizes = {"k": config.nearest_steps, "random_steps": config.random_steps}
        self._retrieval = replace(retrieval, codes=self._actor.codes, max_rollouts=config.bank_rollouts, **sizes)
        self.similarity = StepSimilarity(config.similarity, np.array(self._actor.config.proprio_std, np.float32))
        names = list(self._world.spec.tasks)
        tasks = np.random.default_rng([deployment, 1]).permutation(names)[: config.tasks]
        self.tasks = [str(task) for task in tasks]

    def fill_bank(self, bank: Path) -> Iterator[Experienced]:
        """Run the base alone, task after task, into the bank; each rollout recalls what was remembered before it."""
        with make_writer(self._writer, bank) as writer:
            for i in range(self._config.bank_rollouts):
                scene = BANK_SCENE + MAX_SCENES * self._deployment + i
                task = self.tasks[i % len(self.tasks)]
                done = self.run(
                    f"remembered-{i}", task, scene, BankReader(bank), lambda taken: np.zeros_like(taken.present.base)
                )
                steps = [
                    RolloutStep(observation, step, uncorrected(step, step.base))
                    for observation, step in zip(done.observations[:-1], done.steps[:-1], strict=True)
                ]
                writer.append(rollout_of(steps, self._writer["robot"], done.success, done.length, i))
                yield done

    def run(
        self,
        name: str,
        task: str,
        scene: int,
        memory: SnapshotSource,
        act: Callable[[ActorInput], np.ndarray],
        prefix: float = 0.0,
    ) -> Experienced:
        """Run one episode.

        Args:
            name: Of the episode.
            task: Of the world.
            scene: Its seed.
            memory: That is recalled from.
            act: Gives the residual (1, H, A).
            prefix: Share of the horizon that the base walks alone.
        """
        low, high = self._world.spec.low, self._world.spec.high
        episode = Episode(self._world, task, scene, episode_id=name, execute_steps=self._execute_steps)
        retriever = Retriever(memory, self._retrieval)
        observations: list[Observation] = []
        steps: list[PolicyStep] = []
        inputs: list[ActorInput] = []
        residuals: list[np.ndarray] = []

        def take(observation: Observation) -> PolicyStep:
            step = self._inference(observation)
            observations.append(observation)
            steps.append(step)
            inputs.append(self._input(step, retriever.recall(step.query)))
            return step

        for observation in episode:
            if not steps and episode.length < prefix * episode.horizon:
                episode.execute(np.clip(self._inference(observation).base, low, high))
                continue
            step = take(observation)
            executed = np.clip(step.base + act(inputs[-1])[0], low, high)
            residuals.append(executed - step.base)
            episode.execute(executed)
        last = take(episode.observe())
        executed_residuals = np.array(residuals, np.float32).reshape(-1, *last.base.shape)
        ended = (episode.success, episode.length, memory.snapshot().rollouts)
        return Experienced(observations, steps, inputs, executed_residuals, *ended)

    @torch.inference_mode()
    def residual(self, taken: ActorInput, xi: float, rng: np.random.Generator | None) -> np.ndarray:
        """Return (1, H, A), within its share of the bound: drawn, or without `rng` that of the actor's mean."""
        present, recalled = tree_map(lambda _, x: torch.from_numpy(x), network_input(taken))
        mean, log_std = self._actor(present, recalled)
        if rng is not None:
            mean = mean + log_std.exp() * torch.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
        return np.float32(xi) * self._actor.bounded(mean, recalled).numpy()

    def _input(self, step: PolicyStep, recall: Recall) -> ActorInput:
        read = present_of(step), recalled_of(recall.steps, self._actor.config)
        present, recalled = tree_map(lambda _, x: x.numpy(), read)
        missing = self._config.nearest_steps + self._config.random_steps - len(recall.steps)
        padded = tree_map(lambda _, x: np.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]), recalled)
        return ActorInput(replace(present, sketch=step.sketch.q[None]), step.sketch.scale[None], padded)


def fill_bank(config: FinetuneConfig, deployment: int) -> None:
    """Fill the bank of one deployment and write what its rollouts are to the learner; that file comes last."""
    torch.set_num_threads(1)
    bank = bank_of(config, deployment)
    shutil.rmtree(bank, ignore_errors=True)  # what an interrupted run left
    robot = Robot(config, deployment, config.checkpoint)
    visited = visited_of(config, robot.similarity, list(robot.fill_bank(bank)))
    arrays = leaves(visited.rows) | {"outcomes": np.array(visited.outcomes), "succeeded": visited.succeeded}
    write_state(base_rollouts_of(config, deployment), arrays, {})


def visit(job: Visit) -> Visited:
    """Run the episodes of a visit; the bank of its deployment must be there."""
    torch.set_num_threads(1)
    config, rng = job.config, np.random.default_rng([job.deployment, *job.seed])
    robot, reader = Robot(config, job.deployment, job.actor), BankReader(bank_of(config, job.deployment))
    episodes = []
    for i in range(config.measured_episodes if job.measures else config.visit_episodes):
        if job.measures:
            task, scene = robot.tasks[i % len(robot.tasks)], MEASURED_SCENE + MAX_SCENES * job.deployment + i
            done = robot.run(f"measured-{i}", task, scene, reader, lambda taken: robot.residual(taken, job.xi, None))
        else:
            memory = FirstRollouts(reader, int(rng.choice(config.bank_sizes)))
            task, scene = str(rng.choice(robot.tasks)), RUN_SCENE + int(rng.integers(RUN_SCENE))
            prefix = rng.uniform(0, config.prefix)
            done = robot.run(
                f"visit-{i}", task, scene, memory, lambda taken: robot.residual(taken, job.xi, rng), prefix
            )
        episodes.append(done)
    return visited_of(config, robot.similarity, episodes)


def visited_of(config: FinetuneConfig, similarity: StepSimilarity, episodes: Sequence[Experienced]) -> Visited:
    """Return outcomes and transitions of some episodes."""
    rows = [transitions(config, similarity, episode) for episode in episodes if len(episode.residuals)]
    succeeded = np.concatenate([np.full(len(episode.residuals), episode.success) for episode in episodes])
    return Visited(tuple(episode.success for episode in episodes), concatenate(rows) if rows else None, succeeded)


def bank_of(config: FinetuneConfig, deployment: int) -> Path:
    """Return the directory of a deployment's bank."""
    return Path(config.directory) / "banks" / str(deployment)


def base_rollouts_of(config: FinetuneConfig, deployment: int) -> Path:
    """Return the file of what the base alone did in a deployment."""
    return Path(config.directory) / "base" / f"{deployment}.safetensors"
