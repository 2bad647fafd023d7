# SPDX-License-Identifier: MIT
"""The plan of an evaluation: deployments, tasks, scenes, and the conditions under which each scene is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efn_ros.worlds.deployment import SAMPLED

TRAINING_SEED = 10_000  # first seed of the deployments that an EFN is trained in
BASE, MEMORY = "base", "memory"
OTHER_MEMORY, AS_TRAINED_MEMORY = "other memory", "as-trained memory"  # of another deployment; without any shift
OTHER_MEMORY_BEFORE = "wrong memory"  # its name in files of version 0.1
RECALLED_ACTION, NO_MEMORY, WORK = "recalled action", "no-memory baseline", "memory from work"
ALWAYS = {BASE, MEMORY, OTHER_MEMORY, AS_TRAINED_MEMORY}
# Policies and EFNs are trained on scenes from 100 000 on.
SCENES, BANK_SCENE, SCENES_A_DEPLOYMENT = 50_000, 50_000, 1_000


class TrainedDeploymentError(ValueError):
    """The deployment is not held out: an EFN may have been trained in it."""


@dataclass(frozen=True)
class Condition:
    """How a scene is run."""

    name: str  # unique within an evaluation
    volume: int = 0  # rollouts to recall from, the oldest of the bank
    bank: int | None = None  # seed of the deployment of the bank; None: as trained
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the job
    correct: bool = True  # False: the base policy alone
    # False: a bank of the base policy alone. True: one that the robot filled under this condition, corrected from its
    # first rollout on by the rollouts already in it, and exploring with the parameters of the condition.
    work: bool = False


@dataclass(frozen=True)
class Job:
    """One task in one deployment; the same scenes are run under every condition."""

    graph: str  # name in config/graphs, or path of a document
    deployment: int | None  # its seed; None: as trained
    task: str  # name in the world
    episodes: int  # number of scenes
    conditions: tuple[Condition, ...]  # each meets the same scenes
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    recurring: bool = False  # whether banks are filled in the evaluated scenes, repeatedly, not in scenes of their own
    memory: str = ""  # directory of an existing bank of this deployment; empty: one is filled
    kinds: tuple[str, ...] = SAMPLED  # kinds of shift that the deployment's seed draws from


def plan(
    graph: str,
    tasks: Sequence[str],
    deployments: Sequence[int | None],
    *,
    episodes: int = 1,
    volumes: Sequence[int] = (1, 2, 5, 10),
    overlays: Sequence[str] = (),
    variants: Mapping[str, str] | None = None,
    working: Mapping[str, str] | None = None,
    recurring: bool = False,
    memory: str = "",
    kinds: Sequence[str] = SAMPLED,
) -> list[Job]:
    """Plan every task in every deployment: the base policy, memory at each volume, controls at the largest volume.

    Args:
        graph: Name of the graph whose parameters are used.
        tasks: Names of tasks.
        deployments: Their seeds; None: as trained.
        episodes: Scenes of each task and deployment.
        volumes: Rollouts to recall from.
        overlays: Parameter files laid over those of the graph.
        variants: Additional controls: name -> parameter file. Controls that are always run are the memory of the next
            deployment and the memory of the base policy as trained.
        working: As `variants`, but at each volume, with memory that the robot collected under these parameters.
        recurring: As of `Job`.
        memory: As of `Job`.
        kinds: As of `Job`.

    Returns:
        The jobs, task by task within each deployment.

    Raises:
        TrainedDeploymentError: A seed is not held out.
        ValueError: A volume is negative, a name is taken, or there is nothing to run.
    """
    if not tasks or not deployments or episodes < 1:
        raise ValueError(
            f"the plan has {len(tasks)} tasks, {len(deployments)} deployments and {episodes} episodes of each; name at "
            "least one of each"
        )
    for seed in deployments:
        if seed is not None and not 0 <= seed < TRAINING_SEED:
            raise TrainedDeploymentError(
                f"deployment {seed} is not held out: training uses seeds from {TRAINING_SEED} on; "
                f"choose seeds from 0 to {TRAINING_SEED - 1}"
            )
    if not volumes or min(volumes) < 0:
        raise ValueError(f"volumes are {list(volumes)}; name at least one, none below 0")
    variants, working = variants or {}, working or {}
    taken = ((ALWAYS | working.keys()) & variants.keys()) | (ALWAYS & working.keys())
    if taken:
        raise ValueError(f"the name {sorted(taken)[0]!r} is taken by a condition that is always run; choose another")
    largest = max(volumes)
    jobs = []
    for i, seed in enumerate(deployments):
        following = deployments[(i + 1) % len(deployments)]
        other = following if following != seed else (0 if seed is None else (seed + 1) % TRAINING_SEED)
        conditions = [Condition(BASE, correct=False)]
        conditions += [Condition(MEMORY, volume, seed) for volume in sorted(set(volumes))]
        if largest:
            conditions += [Condition(name, largest, seed, (str(file),)) for name, file in variants.items()]
            for name, file in working.items():
                recalled = sorted({*volumes} - {0})
                conditions += [Condition(name, volume, seed, (str(file),), work=True) for volume in recalled]
            conditions.append(Condition(OTHER_MEMORY, largest, other))
            if seed is not None:
                conditions.append(Condition(AS_TRAINED_MEMORY, largest))
        common = episodes, tuple(conditions), tuple(map(str, overlays)), recurring, memory, tuple(kinds)
        jobs += [Job(graph, seed, task, *common) for task in tasks]
    return jobs


def scene(deployment: int | None, index: int) -> int:
    """Return the seed of an evaluated scene; those of the first deployments differ, and none is a scene of a bank."""
    return (SCENES_A_DEPLOYMENT * (deployment or 0) + index) % SCENES


def bank_scene(deployment: int | None, index: int) -> int:
    """Return the seed of a scene that a bank is filled in."""
    return BANK_SCENE + scene(deployment, index)


def scenes(job: Job) -> list[int]:
    """Return the seeds of the scenes of a job."""
    return [scene(job.deployment, i) for i in range(job.episodes)]
