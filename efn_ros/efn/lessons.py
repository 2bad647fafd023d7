"""Lessons for the EFN from many simulated deployments, with the frozen policy itself as the teacher.

The simulator knows the shift that it hides. So the policy can be shown the scene as it was trained, and its action rid
of the shift: what it does at its best. The difference to what it does in the deployment is the residual to learn, and
what the deployment's own rollouts hold is all that the EFN may learn it from. No expert and no human is asked, so any
backbone can be taught like this.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efn_ros.assembly import make_agent, make_inference
from efn_ros.bank import BankReader, RecallConfig, Retriever
from efn_ros.bank.payload import successors
from efn_ros.efn.learned import LearnedResidual
from efn_ros.graph import Graph
from efn_ros.types import Observation, Outcome, StepContext
from efn_ros.worlds.deployment import Deployment, sample_strengths
from efn_ros.worlds.metaworld import TASKS, MetaWorld
from efn_ros.worlds.stepper import Stepper

REMEMBERED_SEED, LESSON_SEED = 200_000, 300_000  # scenes that neither evaluation nor the policy's training has met


@dataclass(frozen=True)
class LessonConfig:
    """What is collected in one deployment.

    seed: of the deployment and of everything drawn in it. strengths: of its shifts; empty: drawn too. remembered,
    taught: rollouts that fill the bank, and that are taught in. bound: largest residual of the teacher, in the action's
    units, (A,). noise: of the actions in lessons, standard deviation, smooth over a rollout. checkpoint: an EFN that
    drives lessons too (DAgger); empty: none yet.
    """

    seed: int
    strengths: tuple[tuple[str, float], ...] = ()
    remembered: int = 8
    taught: int = 8
    bound: tuple[float, ...] = (0.6, 0.6, 0.6, 1.0)
    noise: float = 0.1
    checkpoint: str = ""
    robot: str = "libero_sim"


def collect(config: LessonConfig, path: Path) -> Path:
    """Live through one deployment and write its lessons to `path`, a NumPy archive without pickle.

    bank_*: one row for each remembered decision: rollout, executed, base (H, A), proprio, proprio_next (P,), latent
    (dz,), success. *: one row for each decision that was taught: latent (L, dz), proprio, base, target (H, A), the
    teacher's residual; similarity (M,), to every remembered decision. outcomes: of the remembered and taught rollouts.
    """
    deployment = Deployment.draw(config.seed, dict(config.strengths) or sample_strengths(config.seed))
    rng = np.random.default_rng([config.seed, 1])
    graph = Graph.load(config.robot)
    steps = graph.parameters("libero_bridge")["execute_steps"]
    world = MetaWorld(deployment=deployment, image_size=graph.parameters("libero_bridge")["image_size"])
    with tempfile.TemporaryDirectory() as directory:
        agent = make_agent(graph, directory)
        try:
            remembered = [
                agent.run(
                    world,
                    str(rng.choice(list(TASKS))),
                    REMEMBERED_SEED + i,
                    episode_id=f"remembered-{i}",
                    execute_steps=steps,
                    correct=False,
                ).success
                for i in range(config.remembered)
            ]
            reader = BankReader(directory)
            lessons = _teach(config, world, deployment, graph, steps, reader, rng)
        finally:
            agent.close()
            world.close()
        bank = _remembered(reader)
    taught = lessons.pop("outcomes")
    arrays = {**{f"bank_{name}": array for name, array in bank.items()}, **lessons}
    arrays["outcomes"] = np.array([np.mean(remembered), np.mean(taught)], np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)
    return path


def _teach(
    config: LessonConfig,
    world: MetaWorld,
    deployment: Deployment,
    graph: Graph,
    execute_steps: int,
    reader: BankReader,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    inference = make_inference(graph.parameters("vla_policy"))
    retriever = Retriever(reader, RecallConfig(rollouts_n=config.remembered, k=8, context=16))
    student = LearnedResidual(config.checkpoint) if config.checkpoint else None
    bound = np.array(config.bound, np.float32)
    rows: list[tuple[np.ndarray, ...]] = []
    outcomes = []
    for i in range(config.taught):
        task = str(rng.choice(list(TASKS)))
        share, probe = rng.choice([0.0, 0.5, 1.0]), np.zeros(len(bound), np.float32)
        driven = student is not None and rng.random() < 0.5
        stepper = Stepper(world, task, LESSON_SEED + config.seed * config.taught + i, execute_steps=execute_steps)
        decision = 0
        while not stepper.done:
            images, proprio = stepper.observe()
            context = StepContext(f"lesson-{i}", decision, decision, task, world.spec.tasks[task], config.seed)
            step = inference(Observation(context, images, proprio))
            nominal = Observation(context, world.observe_nominal()[0], proprio)
            wish = inference.policy.infer(nominal).action.astype(np.float64)
            wish[:, :3] = deployment.undo(wish[:, :3])
            wish = np.clip(wish, world.spec.low, world.spec.high)
            target = np.clip(wish - step.base, -bound, bound).astype(np.float32)
            recall = retriever.recall(step)
            residual = student(step, recall)[0] if driven else np.float32(share) * target
            probe = np.float32(0.9) * probe + rng.normal(0, 0.44 * config.noise, len(bound)).astype(np.float32)
            similarity = retriever.similarities(step)
            rows.append((step.latent, step.proprio, step.base, target, similarity))
            stepper.execute(np.clip(step.base + residual + probe * (bound > 0), world.spec.low, world.spec.high))
            decision += 1
        outcomes.append(stepper.success)
    names = ("latent", "proprio", "base", "target", "similarity")
    lessons = {
        name: np.stack(column).astype(np.float32) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    return {**lessons, "outcomes": np.array(outcomes)}


def _remembered(reader: BankReader) -> dict[str, np.ndarray]:
    """Every remembered decision, in the order of `Retriever.similarities`."""
    columns: dict[str, list[np.ndarray]] = {}
    for index, rollout in enumerate(reader.snapshot().rollouts):
        arrays = rollout.arrays
        kept = np.flatnonzero(arrays.recallable)
        after = successors(arrays.steps)[kept]
        for name, values in (
            ("rollout", np.full(len(kept), index)),
            ("executed", arrays.executed[kept]),
            ("base", arrays.base[kept]),
            ("proprio", arrays.proprio[kept]),
            ("proprio_next", arrays.proprio[after]),
            ("latent", arrays.latent[kept].mean(axis=1)),
            ("success", np.full(len(kept), rollout.record.outcome == Outcome.SUCCESS)),
        ):
            columns.setdefault(name, []).append(values.astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in columns.items()}
