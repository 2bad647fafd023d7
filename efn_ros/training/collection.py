"""Training samples from a simulated deployment, with the frozen policy itself as the teacher.

The simulator knows the shift that it hides. So the policy can be shown the scene as it was trained, and its action rid
of the shift: what it does at its best. The difference to what it does in the deployment is the residual to learn, and
the rollouts of the deployment are all that the network may learn it from. No expert and no human is asked, so any
backbone can be trained like this.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from efn_ros.bank import BankReader
from efn_ros.bank.format.steps import before, successors
from efn_ros.correction.learned import LearnedResidual
from efn_ros.retrieval import Retriever
from efn_ros.retrieval.config import INSTRUCTION, RetrievalConfig
from efn_ros.runtime.episode import Episode
from efn_ros.runtime.factory import make_inference, make_retrieval_config, make_simulation, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
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
from efn_ros.worlds.deployment import SAMPLED, Deployment, sample_strengths

BANK_SCENE, SAMPLE_SCENE = 200_000, 300_000  # scenes that neither evaluation nor the policy's training has met
EXTRA_CAMERAS = "_extra_cameras"  # in the name of the file of samples whose memory is of other cameras


@dataclass(frozen=True)
class CollectionConfig:
    """What is collected in one deployment."""

    seed: int  # of the deployment and of everything drawn in it
    strengths: tuple[tuple[str, float], ...] = ()  # of its shifts; empty: drawn too
    other_cameras: int = 2  # other deployments in which the same motion is seen, each with a memory of its own
    extra_cameras: int = 4  # cameras, drawn anew, that also see each sample; their memory is the deployment's own
    bank_rollouts: int = 8  # that fill the bank
    sample_rollouts: int = 10  # that samples are taken of
    bound: tuple[float, ...] = (0.6, 0.6, 0.6, 1.0)  # largest residual of the teacher, (A,), in the action's units
    noise: float = 0.1  # standard deviation of the actions' noise, smooth over a rollout
    nearest_steps: int = 8  # most similar recalled steps
    random_steps: int = 16  # more recalled steps, at random
    checkpoint: str = ""  # of a network that drives half of the rollouts (DAgger); empty: none yet
    graph: str = "metaworld_sim"
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    kinds: tuple[str, ...] = SAMPLED  # of shifts that are drawn
    tasks: tuple[str, ...] = ()  # empty: all of the world's


def sample_files(seed: int, directory: Path) -> list[Path]:
    """Return the files of one deployment: its own first, then those of other cameras."""
    return [directory / f"{seed}.npz", *sorted(directory.glob(f"{seed}_*.npz"))]


def collect(config: CollectionConfig, directory: Path, collector: type[Collector] | None = None) -> list[Path]:
    """Run one deployment and write its samples, NumPy archives without pickle; its own file comes last.

    Every motion is also seen as other cameras would have shown it in another light, each a file of its own. Columns
    bank_*: one row for each remembered decision: rollout, executed, base, executed_before (H, A), proprio,
    proprio_next, proprio_before (P,), latent (dz,), success. Others: one row for each sample: latent (L, dz), proprio,
    base, target (H, A), the teacher's residual; similarity (M,), to every remembered decision; deployment, (12,),
    coordinates. Both: sketch int8 (T, d) and sketch_scale (T,). outcomes: shares of success of the remembered rollouts
    and of those that samples are of.

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
        remembered = [robot.fill_banks(i) for i in range(config.bank_rollouts)]
        sampled = [robot.collect(i) for i in range(config.sample_rollouts)]
        outcomes = np.array([np.mean(remembered), np.mean(sampled)], np.float32)
        own, *others = robot.views
        named = {f"_view{i}": view for i, view in enumerate(others, 1)} | {EXTRA_CAMERAS: robot.extra_view, "": own}
        files = {name: view.arrays() | {"outcomes": outcomes} for name, view in named.items() if view.rows}
    directory.mkdir(parents=True, exist_ok=True)
    for name, arrays in files.items():
        path = directory / f"{config.seed}{name}.npz"
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
    return sample_files(config.seed, directory)


@dataclass
class View:
    """One deployment as its cameras see it: its bank, and the samples before its cameras."""

    deployment: Deployment
    bank: Path
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all columns of the file of this view."""
        remembered = remembered_decisions(BankReader(self.bank))
        samples = {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}
        return {**{f"bank_{name}": array for name, array in remembered.items()}, **samples}


class Collector:
    """A simulated robot in one deployment, seen through its own cameras (the first view) and through others."""

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

    # What an experiment may fill in.

    def make_inference(self, inference: Inference) -> Inference:
        """Return the inference that samples are made with."""
        return inference

    def make_student(self) -> LearnedResidual:
        """Return the network that drives half of the rollouts."""
        return LearnedResidual(self.config.checkpoint)

    def columns(self, step: PolicyStep) -> dict[str, np.ndarray]:
        """Return further columns of a sample."""
        return {}

    # One rollout each.

    def fill_banks(self, index: int) -> bool:
        """Run the base alone, for one episode, into the bank of every view."""
        kept: list[list[RolloutStep]] = [[] for _ in self.views]
        episode = self._episode(f"remembered-{index}", BANK_SCENE + index)
        for observation in episode:
            seen, steps = self._see(observation)
            executed = steps[0].base
            for rollout, seen_by, step in zip(kept, seen, steps, strict=True):
                said = replace(step, base=executed)  # a policy before those cameras would have said what it did
                rollout.append(RolloutStep(seen_by, said, uncorrected(step, executed)))
            episode.execute(executed)
        for view, rollout in zip(self.views, kept, strict=True):
            with make_writer(self._graph.parameters("bank_writer"), view.bank) as writer:
                writer.append(rollout_of(rollout, "simulated", episode.success, episode.length, index))
        return episode.success

    def collect(self, index: int) -> bool:
        """Run one episode driven by base, teacher or student, with noise; every decision is a sample of every view."""
        config, rng, bound = self.config, self._rng, self._bound
        retrievers = [Retriever(BankReader(view.bank), self._retrieval()) for view in self.views]
        share, noise = np.float32(rng.choice([0.0, 0.5, 1.0])), np.zeros(len(bound), np.float32)
        student = self._student if self._student is not None and rng.random() < 0.5 else None
        low, high = self.world.spec.low, self.world.spec.high
        past: list[PastDecision] = []
        episode = self._episode(f"sample-{index}", SAMPLE_SCENE + config.seed * config.sample_rollouts + index)
        for observation in episode:
            seen, steps = self._see(observation)
            wish = np.clip(self._teacher(seen[0], steps[0]), low, high)
            targets = [np.clip(wish - step.base, -bound, bound) for step in steps]
            for view, step, target, retriever in zip(self.views, steps, targets, retrievers, strict=True):
                self._add(view, step, target, retriever.similarities(step.query), view.deployment)
            for _ in range(config.extra_cameras):
                shift = self.views[0].deployment.with_other_cameras(int(rng.integers(2**31)))
                step = self._inference(replace(seen[0], images=self.world.observe_as(shift)[0]))
                target = np.clip(wish - step.base, -bound, bound)
                self._add(self.extra_view, step, target, retrievers[0].similarities(step.query), shift)
            residual = share * targets[0].astype(np.float32)
            if student:
                residual = student(steps[0], retrievers[0].recall(steps[0].query), past).residual
            noise = np.float32(0.9) * noise + rng.normal(0, 0.44 * config.noise, len(bound)).astype(np.float32)
            executed = np.clip(steps[0].base + residual + noise * (bound > 0), low, high)
            past.append(PastDecision(steps[0].proprio, executed))
            episode.execute(executed)
        return episode.success

    def _teacher(self, seen: Observation, step: PolicyStep) -> np.ndarray:
        """What the policy does at its best, float64 (H, A): with the nominal cameras, and the arm's shift undone."""
        deployment, wish = self.views[0].deployment, step.base.astype(np.float64)
        if deployment != deployment.with_nominal_cameras():
            nominal = replace(seen, images=self.world.observe_as(Deployment())[0])
            wish = self._inference.policy.infer(nominal).action.astype(np.float64)
        wish[:, :3] = deployment.inverse(wish[:, :3])
        return wish

    def _retrieval(self) -> RetrievalConfig:
        """Of search "instruction", which compares all that is remembered; with the codes of the student."""
        config = make_retrieval_config({**self._graph.parameters("experience_retrieval"), "codes": ""})
        return replace(
            config,
            codes=self._student.codes if self._student else None,
            search=INSTRUCTION,
            max_rollouts=self.config.bank_rollouts,
            k=self.config.nearest_steps,
            random_steps=self.config.random_steps,
        )

    def _see(self, observation: Observation) -> tuple[list[Observation], list[PolicyStep]]:
        """What each view shows, and what the policy makes of it."""
        others = [self.world.observe_as(view.deployment) for view in self.views[1:]]
        seen = [observation, *(replace(observation, images=images, proprio=proprio) for images, proprio in others)]
        return seen, [self._inference(each) for each in seen]

    def _add(
        self, view: View, step: PolicyStep, target: np.ndarray, similarity: np.ndarray, seen_as: Deployment
    ) -> None:
        """Add a sample to a view; seen_as: the deployment whose cameras saw it."""
        row = {
            "latent": step.latent,
            "sketch_scale": step.sketch.scale,
            "proprio": step.proprio,
            "base": step.base,
            "target": target,
            "similarity": similarity,
            "deployment": seen_as.coordinates(),
        }
        row = {name: array.astype(np.float32) for name, array in row.items()}
        view.rows.append(row | {"sketch": step.sketch.q} | self.columns(step))

    def _episode(self, name: str, scene: int) -> Episode:
        """Of a task drawn at random."""
        task = str(self._rng.choice(self._tasks))
        return Episode(
            self.world, task, scene, episode_id=name, execute_steps=self._execute_steps, seed=self.config.seed
        )


def uncorrected(step: PolicyStep, executed: np.ndarray) -> Correction:
    """Return the correction of a decision that executed the base action."""
    zero = np.zeros_like(executed)
    return Correction(step.context, executed, zero, executed, 0.0, Mode.BASE, "not corrected")


def rollout_of(steps: Sequence[RolloutStep], robot: str, success: bool, length: int, start_ns: int) -> Rollout:
    """Return the rollout of an episode's decisions.

    Args:
        steps: Of the episode.
        robot: That is remembered with it.
        success: Whether it succeeded.
        length: Control steps.
        start_ns: Of its beginning.
    """
    context, outcome = steps[0].observation.context, Outcome.SUCCESS if success else Outcome.FAILURE
    return Rollout(
        context.episode_id,
        robot,
        context.task,
        context.instruction,
        context.seed,
        outcome,
        length,
        start_ns,
        steps[0].policy_step.policy,
        tuple(steps),
    )


@cache
def simulated_robot(graph: str, overlays: tuple[str, ...] = ()) -> tuple[Inference, TrainingWorld]:
    """Return policy and world, once for each process: to build all scenes takes as long as a few rollouts."""
    loaded = Graph.load(graph, overlays)
    return make_inference(loaded.parameters("vla_policy")), make_simulation(loaded.world)


def remembered_decisions(reader: BankReader) -> dict[str, np.ndarray]:
    """Return every recallable decision of a bank as columns, in the order of `Retriever.similarities`."""
    columns: dict[str, list[np.ndarray]] = {}
    for index, rollout in enumerate(reader.snapshot().rollouts):
        arrays = rollout.arrays
        kept = np.flatnonzero(arrays.recallable)
        after = successors(arrays.steps)[kept]
        executed_before, proprio_before = before(arrays)
        for name, values in (
            ("rollout", np.full(len(kept), index)),
            ("executed", arrays.executed[kept]),
            ("base", arrays.base[kept]),
            ("proprio", arrays.proprio[kept]),
            ("proprio_next", arrays.proprio[after]),
            ("executed_before", executed_before[kept]),
            ("proprio_before", proprio_before[kept]),
            ("latent", arrays.latent[kept].mean(axis=1)),
            ("success", np.full(len(kept), rollout.record.outcome == Outcome.SUCCESS)),
        ):
            columns.setdefault(name, []).append(values.astype(np.float32))
        sketches = rollout.sketches(*kept)
        columns.setdefault("sketch", []).append(np.stack([sketch.q for sketch in sketches]))
        columns.setdefault("sketch_scale", []).append(np.stack([sketch.scale for sketch in sketches]))
    return {name: np.concatenate(parts) for name, parts in columns.items()}
