# SPDX-License-Identifier: MIT
"""A simulated robot in one deployment, corrected by an EFN; its episodes run in processes of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from efn_ros.bank import BankReader
from efn_ros.bank.store.snapshot import FirstRollouts, SnapshotSource
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import present_of, recalled_of
from efn_ros.experiments.sac.config import MAX_SCENES, FinetuneConfig
from efn_ros.experiments.sac.replay import Transition, concatenate, leaves, tree_map
from efn_ros.experiments.sac.similarity import StepSimilarity
from efn_ros.experiments.sac.transitions import ActorInput, RecordedEpisode, network_input, transitions
from efn_ros.retrieval import Retriever
from efn_ros.runtime.episode import Episode
from efn_ros.runtime.factory import make_retrieval_config, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.training.collection import rollout_of, simulated_robot, uncorrected
from efn_ros.training.state import write_state
from efn_ros.types import Observation, PolicyStep, Recall, RolloutStep
from efn_ros.worlds.deployment import Deployment

BANK_SCENE, VALIDATION_SCENE, TRAINING_SCENE = 10_000_000, 20_000_000, 30_000_000  # first seeds of scenes


@dataclass(frozen=True)
class EpisodeJob:
    """Some episodes in one deployment, corrected by the EFN of a directory."""

    config: FinetuneConfig  # of the whole training
    deployment: int  # its seed
    actor: str  # directory
    seed: tuple[int, ...] = ()  # of all random choices
    xi: float = 1.0  # share of the bound
    validate: bool = False  # True: the actor's mean, from the first decision on, always in the same scenes


@dataclass(frozen=True)
class EpisodeBatch:
    """The results of a job."""

    outcomes: tuple[bool, ...]  # success of each episode
    rows: Transition | None  # of all episodes that did not end within their prefix; None where all did
    succeeded: np.ndarray  # bool (B,), success of the episode of each row


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
        self._retrieval = replace(
            make_retrieval_config({**graph.parameters("experience_retrieval"), "codes": ""}),
            codes=self._actor.codes,
            max_rollouts=config.bank_rollouts,
            k=config.nearest_steps,
            random_steps=config.random_steps,
        )
        self.similarity = StepSimilarity(config.similarity, np.array(self._actor.config.proprio_std, np.float32))
        names = list(self._world.spec.tasks)
        tasks = np.random.default_rng([deployment, 1]).permutation(names)[: config.tasks]
        self.tasks = [str(task) for task in tasks]

    def fill_bank(self, bank: Path) -> Iterator[RecordedEpisode]:
        """Run the base alone, task after task, into the bank; each rollout recalls from those before it."""
        with make_writer(self._writer, bank) as writer:
            for i in range(self._config.bank_rollouts):
                scene = BANK_SCENE + MAX_SCENES * self._deployment + i
                task = self.tasks[i % len(self.tasks)]
                episode = self.run(
                    f"remembered-{i}", task, scene, BankReader(bank), lambda inputs: np.zeros_like(inputs.present.base)
                )
                steps = [
                    RolloutStep(observation, step, uncorrected(step, step.base))
                    for observation, step in zip(episode.observations[:-1], episode.steps[:-1], strict=True)
                ]
                writer.append(rollout_of(steps, self._writer["robot"], episode.success, episode.control_steps, i))
                yield episode

    def run(
        self,
        name: str,
        task: str,
        scene: int,
        source: SnapshotSource,
        act: Callable[[ActorInput], np.ndarray],
        prefix: float = 0.0,
    ) -> RecordedEpisode:
        """Run one episode.

        Args:
            name: Of the episode.
            task: Of the world.
            scene: Its seed.
            source: Of the bank that is recalled from.
            act: Returns the residual (1, H, A).
            prefix: Share of the horizon in which the base acts alone.
        """
        low, high = self._world.spec.low, self._world.spec.high
        episode = Episode(self._world, task, scene, episode_id=name, execute_steps=self._execute_steps)
        retriever = Retriever(source, self._retrieval)
        observations: list[Observation] = []
        steps: list[PolicyStep] = []
        inputs: list[ActorInput] = []
        residuals: list[np.ndarray] = []

        def record(observation: Observation) -> PolicyStep:
            step = self._inference(observation)
            observations.append(observation)
            steps.append(step)
            inputs.append(self._input(step, retriever.recall(step.query)))
            return step

        for observation in episode:
            if not steps and episode.control_step < prefix * episode.horizon:
                episode.execute(np.clip(self._inference(observation).base, low, high))
                continue
            step = record(observation)
            executed = np.clip(step.base + act(inputs[-1])[0], low, high)
            residuals.append(executed - step.base)
            episode.execute(executed)
        last = record(episode.observe())
        executed_residuals = np.array(residuals, np.float32).reshape(-1, *last.base.shape)
        ended = (episode.success, episode.control_step, source.snapshot().rollouts)
        return RecordedEpisode(observations, steps, inputs, executed_residuals, *ended)

    @torch.inference_mode()
    def residual(self, inputs: ActorInput, xi: float, rng: np.random.Generator | None) -> np.ndarray:
        """Return a residual (1, H, A) within its share of the bound; without `rng` that of the actor's mean."""
        present, recalled = tree_map(lambda _, x: torch.from_numpy(x), network_input(inputs))
        mean, log_std = self._actor(present, recalled)
        if rng is not None:
            mean = mean + log_std.exp() * torch.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
        return np.float32(xi) * self._actor.bounded(mean, recalled).numpy()

    def _input(self, step: PolicyStep, recall: Recall) -> ActorInput:
        tensors = present_of(step), recalled_of(recall.steps, self._actor.config)
        present, recalled = tree_map(lambda _, x: x.numpy(), tensors)
        missing = self._config.nearest_steps + self._config.random_steps - len(recall.steps)
        padded = tree_map(lambda _, x: np.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]), recalled)
        return ActorInput(replace(present, sketch=step.sketch.q[None]), step.sketch.scale[None], padded)


def fill_bank(config: FinetuneConfig, deployment: int) -> None:
    """Fill the bank of a deployment, and then write the transitions of its rollouts to one file."""
    torch.set_num_threads(1)
    bank = bank_directory(config, deployment)
    shutil.rmtree(bank, ignore_errors=True)  # an interrupted run may have left a part of it
    robot = Robot(config, deployment, config.checkpoint)
    batch = make_batch(config, robot.similarity, list(robot.fill_bank(bank)))
    arrays = leaves(batch.rows) | {"outcomes": np.array(batch.outcomes), "succeeded": batch.succeeded}
    write_state(base_rollouts_file(config, deployment), arrays, {})


def run_job(job: EpisodeJob) -> EpisodeBatch:
    """Run the episodes of a job; the bank of its deployment must be filled."""
    torch.set_num_threads(1)
    config, rng = job.config, np.random.default_rng([job.deployment, *job.seed])
    robot, reader = Robot(config, job.deployment, job.actor), BankReader(bank_directory(config, job.deployment))
    episodes = []
    for i in range(config.validation_episodes if job.validate else config.round_episodes):
        if job.validate:
            task, scene = robot.tasks[i % len(robot.tasks)], VALIDATION_SCENE + MAX_SCENES * job.deployment + i
            source, prefix, noise = reader, 0.0, None
        else:
            source, noise = FirstRollouts(reader, int(rng.choice(config.bank_sizes))), rng
            task, scene = str(rng.choice(robot.tasks)), TRAINING_SCENE + int(rng.integers(TRAINING_SCENE))
            prefix = rng.uniform(0, config.max_prefix)
        act = partial(robot.residual, xi=job.xi, rng=noise)
        episodes.append(robot.run(f"episode-{i}", task, scene, source, act, prefix))
    return make_batch(config, robot.similarity, episodes)


def make_batch(config: FinetuneConfig, similarity: StepSimilarity, episodes: Sequence[RecordedEpisode]) -> EpisodeBatch:
    """Return outcomes and transitions of some episodes."""
    rows = [transitions(config, similarity, episode) for episode in episodes if len(episode.residuals)]
    succeeded = np.concatenate([np.full(len(episode.residuals), episode.success) for episode in episodes])
    return EpisodeBatch(tuple(episode.success for episode in episodes), concatenate(rows) if rows else None, succeeded)


def bank_directory(config: FinetuneConfig, deployment: int) -> Path:
    """Return the bank of a deployment."""
    return Path(config.directory) / "banks" / str(deployment)


def base_rollouts_file(config: FinetuneConfig, deployment: int) -> Path:
    """Return the file of the base's transitions in a deployment."""
    return Path(config.directory) / "base" / f"{deployment}.safetensors"
