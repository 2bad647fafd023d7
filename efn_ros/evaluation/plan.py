"""Which deployments, which tasks, which scenes, and the conditions under which each scene is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efn_ros.worlds.deployment import SAMPLED

TRAINING_SEED = 10_000  # deployments from here on are those that an EFN is trained in
BASE, MEMORY = "base", "memory"
OTHER_MEMORY, AS_TRAINED_MEMORY = "wrong memory", "as-trained memory"  # of another deployment; of no shift at all
RECALLED_ACTION, NO_MEMORY, WORK = "recalled action", "no-memory baseline", "memory from work"
ALWAYS = {BASE, MEMORY, OTHER_MEMORY, AS_TRAINED_MEMORY}
# Scenes: policies and EFNs are trained on those from 100 000 on.
SCENES, BANK_SCENE, SCENES_A_DEPLOYMENT = 50_000, 50_000, 1_000


class TrainedDeploymentError(ValueError):
    """A deployment that an EFN may have been trained in is no test of it."""


@dataclass(frozen=True)
class Condition:
    """How a scene is run."""

    name: str
    volume: int = 0  # recall sees so many rollouts of the bank, the oldest
    bank: int | None = None  # seed of the deployment whose bank it is; None: as trained
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the job
    correct: bool = True  # False: the base alone
    # False: a bank of the base alone. True: one that the robot filled under this very condition, corrected from its
    # first rollout on by what was in it already, and exploring as the parameters say.
    work: bool = False


@dataclass(frozen=True)
class Job:
    """One task in one deployment; every condition runs the same scenes."""

    graph: str
    deployment: int | None  # its seed; None: as trained
    task: str
    episodes: int
    conditions: tuple[Condition, ...]
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    recurring: bool = False  # banks are of these very scenes, run again and again, and not of scenes of their own
    memory: str = ""  # directory of the bank of this deployment; empty: one is filled
    kinds: tuple[str, ...] = SAMPLED  # of shifts that the deployment's seed draws from


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
    """Plan every task in every deployment: the base, memory at each volume, the controls at the largest.

    Args:
        graph: Name of the graph whose parameters are used.
        tasks: Names of tasks.
        deployments: Their seeds; None: as trained.
        episodes: Scenes of each task and deployment.
        volumes: Rollouts that recall sees.
        overlays: Parameter files laid over those of the graph.
        variants: Controls: name -> parameter file. Further ones are the memory of the next deployment and that of the
            base as trained.
        working: As `variants`, but at each volume, with memory that the robot collected itself under these parameters.
        recurring: As of `Job`.
        memory: As of `Job`.
        kinds: As of `Job`.

    Returns:
        The jobs, task by task within each deployment.

    Raises:
        TrainedDeploymentError: A seed is not held out.
        ValueError: A volume is negative, a name is taken, or nothing is left to run.
    """
    if not tasks or not deployments or episodes < 1:
        raise ValueError(
            f"there are {len(tasks)} tasks, {len(deployments)} deployments and {episodes} episodes of each; "
            "at least one of each is needed"
        )
    for seed in deployments:
        if seed is not None and not 0 <= seed < TRAINING_SEED:
            raise TrainedDeploymentError(
                f"deployment {seed} is not held out: training takes seeds from {TRAINING_SEED} on; "
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
    """Return the seed of an evaluated scene: others in each of the first deployments, and none that fills a bank."""
    return (SCENES_A_DEPLOYMENT * (deployment or 0) + index) % SCENES


def bank_scene(deployment: int | None, index: int) -> int:
    """Return the seed of a scene that fills a bank."""
    return BANK_SCENE + scene(deployment, index)


def scenes(job: Job) -> list[int]:
    """Return the seeds of the scenes of a job."""
    return [scene(job.deployment, i) for i in range(job.episodes)]
