# SPDX-License-Identifier: MIT
"""Training samples from a simulated deployment, with the frozen policy itself as the teacher.

The simulator knows the shift of the deployment. The teacher is the frozen policy with the nominal cameras and with the
shift of the arm removed from its action. The residual to learn is the difference between its action and the action of
the policy in the deployment; the network must infer it from the deployment's rollouts alone. No expert and no human
labels are needed, so that any backbone can be trained like this.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from efn_ros.bank import BankReader
from efn_ros.correction.learned import LearnedResidual
from efn_ros.retrieval import Retriever
from efn_ros.retrieval.config import INSTRUCTION, RetrievalConfig
from efn_ros.runtime.episode import Episode
from efn_ros.runtime.factory import make_inference, make_retrieval_config, make_simulation, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.training.config import CollectionConfig
from efn_ros.training.decisions import concatenate, decision_columns
from efn_ros.types import (
    Correction,
    Mode,
    Observation,
    Outcome,
    PastDecision,
    PolicyStep,
    Rollout,
    RolloutStep,
)
from efn_ros.worlds import TrainingWorld
from efn_ros.worlds.deployment import Deployment, sample_strengths

BANK_SCENE, SAMPLE_SCENE = 200_000, 300_000  # first scenes; neither evaluation nor the policy's training uses them
EXTRA_CAMERAS = "_extra_cameras"  # in the name of the file of samples from extra cameras


def sample_files(seed: int, directory: Path) -> list[Path]:
    """Return the files of one deployment: its own first, then those of other cameras."""
    return [directory / f"{seed}.npz", *sorted(directory.glob(f"{seed}_*.npz"))]


def collect(config: CollectionConfig, directory: Path, collector: type[Collector] | None = None) -> list[Path]:
    """Run one deployment and write its samples, NumPy archives without pickle; its own file comes last.

    Every motion is also rendered for other cameras and another light, each in a file of its own.

    * Columns bank_*, one row for each decision in the bank: rollout, executed, base, executed_before (H, A), proprio,
      proprio_next, proprio_before (P,), latent (dz,), success.
    * Other columns, one row for each sample: latent (L, dz), proprio, base, target (H, A), which is the residual of the
      teacher, similarity (M,) to each decision in the bank, deployment (12,), its coordinates.
    * Both: sketch int8 (T, d) and sketch_scale (T,).
    * outcomes: success rates of the bank's rollouts and of those that samples are taken of.

    Args:
        config: What to collect.
        directory: Of the files.
        collector: The class that collects; None: `Collector`.

    Returns:
        The files of the deployment.
    """
    deployment = Deployment.draw(config.seed, dict(config.strengths) or sample_strengths(config.seed, config.kinds))
    graph = Graph.load(config.graph, config.overlays)
    with tempfile.TemporaryDirectory() as banks:
        robot = (collector or Collector)(config, deployment, graph, Path(banks))
        banked = [robot.fill_banks(i) for i in range(config.bank_rollouts)]
        sampled = [robot.collect(i) for i in range(config.sample_rollouts)]
        outcomes = np.array([np.mean(banked), np.mean(sampled)], np.float32)
        own, *others = robot.views
        named = {f"_view{i}": view for i, view in enumerate(others, 1)} | {EXTRA_CAMERAS: robot.extra_view, "": own}
        files = {name: view.arrays() | {"outcomes": outcomes} for name, view in named.items() if view.rows}
    directory.mkdir(parents=True, exist_ok=True)
    for name, arrays in files.items():
        path = directory / f"{config.seed}{name}.npz"
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - the stub takes ** for `allow_pickle`
        partial.replace(path)
    return sample_files(config.seed, directory)


@dataclass
class View:
    """One deployment as its cameras observe it."""

    deployment: Deployment  # the shift that it shows
    bank: Path  # directory of its bank
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)  # the samples

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all columns of the file of this view."""
        bank = {f"bank_{name}": array for name, array in bank_columns(BankReader(self.bank)).items()}
        return bank | {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}


class Collector:
    """A simulated robot in one deployment, observed by its own cameras (the first view) and by others.

    An experiment may override `make_inference`, `make_student` and `columns`.
    """

    def __init__(self, config: CollectionConfig, deployment: Deployment, graph: Graph, banks: Path) -> None:
        self.config, self._graph = config, graph
        self._execute_steps = graph.world["execute_steps"]
        self._rng = np.random.default_rng([config.seed, 1])
        inference, self.world = simulated_robot(config.graph, config.overlays)
        self._tasks = config.tasks or tuple(self.world.spec.tasks)
        self.world.deployment = deployment
        self._inference = self.make_inference(inference)
        self._student = self.make_student() if config.checkpoint else None
        self._bound = np.array(config.bound, np.float32)
        others = [
            deployment.with_other_cameras(config.seed * config.other_cameras + i) for i in range(config.other_cameras)
        ]
        self.views = [View(each, banks / str(i)) for i, each in enumerate([deployment, *others])]
        self.extra_view = View(deployment, self.views[0].bank)

    def make_inference(self, inference: Inference) -> Inference:
        """Return the inference that samples are made with."""
        return inference

    def make_student(self) -> LearnedResidual:
        """Return the network that drives half of the rollouts."""
        return LearnedResidual(self.config.checkpoint)

    def columns(self, step: PolicyStep) -> dict[str, np.ndarray]:
        """Return further columns of a sample."""
        return {}

    def fill_banks(self, index: int) -> bool:
        """Run the base policy alone for one episode and store it in the bank of every view.

        Returns:
            Whether the episode succeeded.
        """
        rollouts: list[list[RolloutStep]] = [[] for _ in self.views]
        episode = self._episode(f"bank-{index}", BANK_SCENE + index)
        for observation in episode:
            observations, steps = self._observe(observation)
            executed = steps[0].base
            for rollout, observed, step in zip(rollouts, observations, steps, strict=True):
                # A robot with the cameras of this view would have executed the base action of its own policy.
                rollout.append(RolloutStep(observed, replace(step, base=executed), uncorrected(step, executed)))
            episode.execute(executed)
        for view, rollout in zip(self.views, rollouts, strict=True):
            with make_writer(self._graph.parameters("bank_writer"), view.bank) as writer:
                writer.append(rollout_of(rollout, "simulated", episode.success, episode.control_step, index))
        return episode.success

    def collect(self, index: int) -> bool:
        """Run one episode driven by base policy, teacher or student, with noise.

        Every decision becomes a sample of every view.

        Returns:
            Whether the episode succeeded.
        """
        config, rng, bound = self.config, self._rng, self._bound
        retrievers = [Retriever(BankReader(view.bank), self._retrieval()) for view in self.views]
        share, noise = np.float32(rng.choice([0.0, 0.5, 1.0])), np.zeros(len(bound), np.float32)
        student = self._student if self._student is not None and rng.random() < 0.5 else None
        low, high = self.world.spec.low, self.world.spec.high
        past: list[PastDecision] = []
        episode = self._episode(f"sample-{index}", SAMPLE_SCENE + config.seed * config.sample_rollouts + index)
        for observation in episode:
            observations, steps = self._observe(observation)
            reference = np.clip(self._teacher(observation, steps[0]), low, high)
            targets = [np.clip(reference - step.base, -bound, bound) for step in steps]
            for view, step, target, retriever in zip(self.views, steps, targets, retrievers, strict=True):
                self._add(view, step, target, retriever.similarities(step.query), view.deployment)
            for _ in range(config.extra_cameras):
                shift = self.views[0].deployment.with_other_cameras(int(rng.integers(2**31)))
                step = self._inference(replace(observation, images=self.world.observe_as(shift)[0]))
                target = np.clip(reference - step.base, -bound, bound)
                self._add(self.extra_view, step, target, retrievers[0].similarities(step.query), shift)
            residual = share * targets[0].astype(np.float32)
            if student:
                residual = student(steps[0], retrievers[0].recall(steps[0].query), past).residual
            noise = np.float32(0.9) * noise + rng.normal(0, 0.44 * config.noise, len(bound)).astype(np.float32)
            executed = np.clip(steps[0].base + residual + noise * (bound > 0), low, high)
            past.append(PastDecision(steps[0].proprio, executed))
            episode.execute(executed)
        return episode.success

    def _teacher(self, observation: Observation, step: PolicyStep) -> np.ndarray:
        """Action of the teacher, float64 (H, A): inferred with nominal cameras, with the shift of the arm removed."""
        deployment, action = self.views[0].deployment, step.base.astype(np.float64)
        if deployment != deployment.with_nominal_cameras():
            nominal = replace(observation, images=self.world.observe_as(Deployment())[0])
            action = self._inference.policy.infer(nominal).action.astype(np.float64)
        action[:, :3] = deployment.inverse(action[:, :3])
        return action

    def _retrieval(self) -> RetrievalConfig:
        """Settings that compare a query with all decisions of a bank, with the codes of the student."""
        config = make_retrieval_config({**self._graph.parameters("experience_retrieval"), "codes": ""})
        return replace(
            config,
            codes=self._student.codes if self._student else None,
            search=INSTRUCTION,
            max_rollouts=self.config.bank_rollouts,
            k=self.config.nearest_steps,
            random_steps=self.config.random_steps,
        )

    def _observe(self, observation: Observation) -> tuple[list[Observation], list[PolicyStep]]:
        """Observation and policy step of each view."""
        others = [self.world.observe_as(view.deployment) for view in self.views[1:]]
        observations = [
            observation,
            *(replace(observation, images=images, proprio=proprio) for images, proprio in others),
        ]
        return observations, [self._inference(each) for each in observations]

    def _add(
        self, view: View, step: PolicyStep, target: np.ndarray, similarity: np.ndarray, deployment: Deployment
    ) -> None:
        """Add a sample to a view; deployment: whose cameras observed it."""
        row = {
            "latent": step.latent,
            "sketch_scale": step.sketch.scale,
            "proprio": step.proprio,
            "base": step.base,
            "target": target,
            "similarity": similarity,
            "deployment": deployment.coordinates(),
        }
        row = {name: array.astype(np.float32) for name, array in row.items()}
        view.rows.append(row | {"sketch": step.sketch.q} | self.columns(step))

    def _episode(self, name: str, scene: int) -> Episode:
        """Start an episode of a random task."""
        task = str(self._rng.choice(self._tasks))
        return Episode(
            self.world, task, scene, episode_id=name, execute_steps=self._execute_steps, seed=self.config.seed
        )


def uncorrected(step: PolicyStep, executed: np.ndarray) -> Correction:
    """Return the correction of a decision that executed the base action."""
    zero = np.zeros_like(executed)
    return Correction(step.context, executed, zero, executed, 0.0, Mode.BASE, "not corrected")


def rollout_of(steps: Sequence[RolloutStep], robot: str, success: bool, length: int, start_ns: int) -> Rollout:
    """Return the rollout of an episode.

    Args:
        steps: Its decisions.
        robot: Name of the robot.
        success: Whether it succeeded.
        length: Control steps.
        start_ns: Its start.
    """
    context = steps[0].observation.context
    return Rollout(
        context.episode_id,
        robot,
        context.task,
        context.instruction,
        context.seed,
        Outcome.SUCCESS if success else Outcome.FAILURE,
        length,
        start_ns,
        steps[0].policy_step.policy,
        tuple(steps),
    )


@cache
def simulated_robot(graph: str, overlays: tuple[str, ...] = ()) -> tuple[Inference, TrainingWorld]:
    """Return policy and world, one instance in each process: to build all scenes takes as long as a few rollouts."""
    loaded = Graph.load(graph, overlays)
    return make_inference(loaded.parameters("vla_policy")), make_simulation(loaded.world)


def bank_columns(reader: BankReader) -> dict[str, np.ndarray]:
    """Return every recallable decision of a bank as columns, in the order of `Retriever.similarities`."""
    parts = []
    for index, rollout in enumerate(reader.snapshot().rollouts):
        rows = np.flatnonzero(rollout.arrays.recallable)
        columns = {"rollout": np.full(len(rows), index)}
        columns |= {name: column[rows] for name, column in decision_columns(rollout).items()}
        columns["latent"] = columns["latent"].mean(axis=1)
        columns = {name: column.astype(np.float32) for name, column in columns.items()}
        sketches = rollout.sketches(*rows.tolist())
        columns["sketch"] = np.stack([sketch.q for sketch in sketches])
        columns["sketch_scale"] = np.stack([sketch.scale for sketch in sketches])
        parts.append(columns)
    return concatenate(parts)
