"""Lessons for the EFN from many simulated deployments, with the frozen policy itself as the teacher.

The simulator knows the shift that it hides. So the policy can be shown the scene as it was trained, and its action rid
of the shift: what it does at its best. The difference to what it does in the deployment is the residual to learn, and
what the deployment's own rollouts hold is all that the EFN may learn it from. No expert and no human is asked, so any
backbone can be taught like this.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from efn_ros.bank import BankReader
from efn_ros.bank.format.steps import before, successors
from efn_ros.correction.learned import LearnedResidual
from efn_ros.retrieval import Retriever
from efn_ros.retrieval.config import INSTRUCTION
from efn_ros.runtime.factory import make_inference, make_recall, make_simulation, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.types import Correction, Mode, Observation, Outcome, Past, PolicyStep, Rollout, RolloutStep, StepContext
from efn_ros.worlds import TeachingWorld
from efn_ros.worlds.deployment import SAMPLED, Deployment, sample_strengths
from efn_ros.worlds.stepper import Stepper

REMEMBERED_SEED, LESSON_SEED = 200_000, 300_000  # scenes that neither evaluation nor the policy's training has met


@dataclass(frozen=True)
class LessonConfig:
    """What is collected in one deployment.

    seed: of the deployment and of everything drawn in it. strengths: of its shifts; empty: drawn too. views: in how
    many other deployments the same motion is seen. glimpses: through how many cameras more, drawn anew each time, a
    taught decision is seen; their memory is that of the deployment itself. remembered, taught: rollouts that fill the
    bank, and that are taught in. bound: largest residual of the teacher, in the action's units, (A,). noise: of the
    actions in lessons, standard deviation, smooth over a rollout. nearest, context: recalled steps. checkpoint: an EFN
    that drives lessons too (DAgger); empty: none yet. visual: keep V of what is taught, for an EFN that changes latent
    tokens. overlays: parameter files laid over those of the robot. kinds: of shifts that are drawn. tasks: none are all
    of the world's.
    """

    seed: int
    strengths: tuple[tuple[str, float], ...] = ()
    views: int = 2
    glimpses: int = 4
    remembered: int = 8
    taught: int = 10
    bound: tuple[float, ...] = (0.6, 0.6, 0.6, 1.0)
    noise: float = 0.1
    nearest: int = 8
    context: int = 16
    checkpoint: str = ""
    robot: str = "libero_sim"
    visual: bool = False
    overlays: tuple[str, ...] = ()
    kinds: tuple[str, ...] = SAMPLED
    tasks: tuple[str, ...] = ()


def paths_of(seed: int, directory: Path) -> list[Path]:
    """The files of one deployment: its own first, then those of other cameras."""
    return [directory / f"{seed}.npz", *sorted(directory.glob(f"{seed}_*.npz"))]


def collect(config: LessonConfig, directory: Path) -> list[Path]:
    """Live through one deployment and write its lessons, NumPy archives without pickle; its own file comes last.

    Every motion is also seen as other cameras would have shown it in another light, each a file of its own: as if that
    deployment's arm had been told to do the same. bank_*: one row for each remembered decision: rollout, executed,
    base, executed_before (H, A), proprio, proprio_next, proprio_before (P,), latent (dz,), success. *: one row for each
    decision that was taught: latent (L, dz), proprio, base, target (H, A), the teacher's residual; similarity (M,), to
    every remembered decision; deployment, (12,), coordinates; visual, float16 (T, D), where it is asked for. Both:
    sketch int8 (T, d) and sketch_scale (T,). outcomes: shares of success of the remembered and of the taught rollouts.
    """
    deployment = Deployment.draw(config.seed, dict(config.strengths) or sample_strengths(config.seed, config.kinds))
    graph = Graph.load(config.robot, config.overlays)
    with tempfile.TemporaryDirectory() as banks:
        school = _School(config, deployment, graph, Path(banks))
        remembered = [school.remember(i) for i in range(config.remembered)]
        taught = [school.teach(i) for i in range(config.taught)]
        outcomes = np.array([np.mean(remembered), np.mean(taught)], np.float32)
        own, *others = school.views
        seen = {f"_view{i}": view for i, view in enumerate(others, 1)} | {"_glimpses": school.glimpses, "": own}
        files = {name: view.lessons() | {"outcomes": outcomes} for name, view in seen.items() if view.rows}
    directory.mkdir(parents=True, exist_ok=True)
    for name, arrays in files.items():
        path = directory / f"{config.seed}{name}.npz"
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
    return paths_of(config.seed, directory)


@dataclass
class _View:
    """One deployment as it is seen: its bank, and the decisions that were taught before its cameras."""

    deployment: Deployment
    bank: Path
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)

    def lessons(self) -> dict[str, np.ndarray]:
        remembered = _remembered(BankReader(self.bank))
        taught = {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}
        return {**{f"bank_{name}": array for name, array in remembered.items()}, **taught}

    def teach(self, step: PolicyStep, target: np.ndarray, similarity: np.ndarray, seen_as: Deployment) -> None:
        """Add a decision."""
        row = {
            "latent": step.latent,
            "sketch_scale": step.sketch.scale,
            "proprio": step.proprio,
            "base": step.base,
            "target": target,
            "similarity": similarity,
            "deployment": seen_as.coordinates(),
        }
        row = {name: array.astype(np.float32) for name, array in row.items()} | {"sketch": step.sketch.q}
        if step.visual is not None:
            row["visual"] = step.visual.astype(np.float16)
        self.rows.append(row)


class _School:
    """A simulated robot in one deployment, seen through its own cameras (the first view) and through others."""

    def __init__(self, config: LessonConfig, deployment: Deployment, graph: Graph, banks: Path) -> None:
        bridge, self._graph, self._config = graph.parameters("libero_bridge"), graph, config
        self._execute_steps = bridge["execute_steps"]
        self._rng = np.random.default_rng([config.seed, 1])
        inference, self.world = simulated_robot(config.robot, config.overlays)
        self._tasks = config.tasks or tuple(self.world.spec.tasks)
        self.world.deployment = deployment
        policy = inference.policy
        self._inference = Inference(policy, inference.projection, publish_visual=config.visual)
        self._student = None
        if config.checkpoint:
            decodes = {"decode": policy.decode, "policy": policy.spec.fingerprint}
            self._student = LearnedResidual(config.checkpoint, **decodes)
        self._bound = np.array(config.bound, np.float32)
        eyes = [deployment, *(deployment.seen_otherwise(config.seed * config.views + i) for i in range(config.views))]
        self.views = [_View(eye, banks / str(i)) for i, eye in enumerate(eyes)]
        self.glimpses = _View(deployment, self.views[0].bank)

    def remember(self, index: int) -> bool:
        """The base alone, for one episode, into every bank."""
        remembered: list[list[RolloutStep]] = [[] for _ in self.views]

        def drive(seen: list[Observation], steps: list[PolicyStep]) -> np.ndarray:
            executed = steps[0].base
            for kept, observation, step in zip(remembered, seen, steps, strict=True):
                said = replace(step, base=executed)  # a policy before those cameras would have said what it did
                nothing = np.zeros_like(executed)
                correction = Correction(step.context, executed, nothing, executed, 0.0, Mode.BASE, "not corrected")
                kept.append(RolloutStep(observation, said, correction))
            return executed

        stepper = self._episode(f"remembered-{index}", REMEMBERED_SEED + index, drive)
        for view, kept in zip(self.views, remembered, strict=True):
            context, policy = kept[0].observation.context, kept[0].policy_step.policy
            outcome = Outcome.SUCCESS if stepper.success else Outcome.FAILURE
            told = (context.task, context.instruction, context.seed, outcome, stepper.control_step, index, policy)
            writer = make_writer(self._graph.parameters("bank_writer"), view.bank)
            writer.append(Rollout(context.episode_id, self._config.robot, *told, steps=tuple(kept)))
            writer.close()
        return stepper.success

    def teach(self, index: int) -> bool:
        """One episode driven by base, teacher or student, with noise; every decision is taught before every view."""
        config, rng, bound = self._config, self._rng, self._bound
        recall = make_recall({**self._graph.parameters("experience_retrieval"), "codes": ""})  # that of the student
        codes = self._student.codes if self._student else None
        sizes = {"rollouts_n": config.remembered, "k": config.nearest, "context": config.context}
        recall = replace(recall, codes=codes, search=INSTRUCTION, **sizes)  # which compares all that is remembered
        retrievers = [Retriever(BankReader(view.bank), recall) for view in self.views]
        share, probe = np.float32(rng.choice([0.0, 0.5, 1.0])), np.zeros(len(bound), np.float32)
        driven = self._student is not None and rng.random() < 0.5
        low, high = self.world.spec.low, self.world.spec.high
        as_trained = self.views[0].deployment == self.views[0].deployment.seen_as_trained()
        past: list[Past] = []

        def drive(seen: list[Observation], steps: list[PolicyStep]) -> np.ndarray:
            nonlocal probe
            wish = steps[0].base.astype(np.float64)
            if not as_trained:
                nominal = replace(seen[0], images=self.world.observe_as(Deployment())[0])
                wish = self._inference.policy.infer(nominal).action.astype(np.float64)
            wish[:, :3] = self.views[0].deployment.undo(wish[:, :3])
            wish = np.clip(wish, low, high)
            target = [np.clip(wish - step.base, -bound, bound) for step in steps]
            for view, step, aim, retriever in zip(self.views, steps, target, retrievers, strict=True):
                view.teach(step, aim, retriever.similarities(step), view.deployment)
            for _ in range(config.glimpses):
                eye = self.views[0].deployment.seen_otherwise(int(rng.integers(2**31)))
                step = self._inference(replace(seen[0], images=self.world.observe_as(eye)[0]))
                aim = np.clip(wish - step.base, -bound, bound)
                self.glimpses.teach(step, aim, retrievers[0].similarities(step), eye)
            residual = share * target[0].astype(np.float32)
            if driven:
                residual = self._student(steps[0], retrievers[0].recall(steps[0]), past).residual
            probe = np.float32(0.9) * probe + rng.normal(0, 0.44 * config.noise, len(bound)).astype(np.float32)
            executed = np.clip(steps[0].base + residual + probe * (bound > 0), low, high)
            past.append(Past(steps[0].proprio, executed))
            return executed

        return self._episode(f"lesson-{index}", LESSON_SEED + config.seed * config.taught + index, drive).success

    def _episode(
        self, name: str, seed: int, drive: Callable[[list[Observation], list[PolicyStep]], np.ndarray]
    ) -> Stepper:
        """A whole episode of a task drawn at random; `drive` is given what each view shows and what the policy makes of
        it, and returns the chunk to execute."""
        world, task = self.world, str(self._rng.choice(self._tasks))
        stepper = Stepper(world, task, seed, execute_steps=self._execute_steps)
        decision = 0
        while not stepper.done:
            context = StepContext(name, decision, decision, task, world.spec.tasks[task], self._config.seed)
            eyes = [world.observe_as(view.deployment) for view in self.views]
            seen = [Observation(context, images, proprio) for images, proprio in eyes]
            stepper.execute(drive(seen, [self._inference(observation) for observation in seen]))
            decision += 1
        return stepper


@cache
def simulated_robot(name: str, overlays: tuple[str, ...] = ()) -> tuple[Inference, TeachingWorld]:
    """Policy and world, once for each process: to build all scenes takes as long as a few rollouts."""
    graph = Graph.load(name, overlays)
    return make_inference(graph.parameters("vla_policy")), make_simulation(graph.parameters("libero_bridge"))


def _remembered(reader: BankReader) -> dict[str, np.ndarray]:
    """Every remembered decision, in the order of `Retriever.similarities`."""
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
