"""Which deployments, which tasks, which scenes, and the ways in which each scene is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from efn_ros.worlds.deployment import SAMPLED

TRAINING_SEED = 10_000  # deployments from here on are those that an EFN is trained in
BASE, MEMORY, WRONG, AS_TRAINED = "base", "memory", "wrong memory", "as-trained memory"
RECALL, MEMORYLESS, WORK = "recall", "no recall", "memory of work"
# Scenes: policies and EFNs are trained on those from 100 000 on.
SCENES, REMEMBERED_SCENE, SCENES_A_DEPLOYMENT = 50_000, 50_000, 1_000


class TrainedDeploymentError(ValueError):
    """A deployment that an EFN may have been trained in is no test of it."""


@dataclass(frozen=True)
class Way:
    """How a scene is met.

    volume: the recall sees the first so many rollouts of the bank. bank: seed of the deployment whose it is, None: as
    trained. overlays: parameter files laid over those of the job. correct: False is the base alone. work: False is a
    bank of the base alone; True one that the robot, met in this way, filled as it worked: corrected from its first
    rollout on by what was there already, and probed as the parameters say.
    """

    name: str
    volume: int = 0
    bank: int | None = None
    overlays: tuple[str, ...] = ()
    correct: bool = True
    work: bool = False


@dataclass(frozen=True)
class Job:
    """One task in one deployment; every way meets the same scenes. deployment: seed, None is as trained. recurring:
    banks are of these very scenes, met again and again, and not of scenes of their own. memory: directory of the bank
    of this deployment, empty for one that is filled. kinds: of shifts that the seed draws from."""

    robot: str
    deployment: int | None
    task: str
    episodes: int
    ways: tuple[Way, ...]
    overlays: tuple[str, ...] = ()
    recurring: bool = False
    memory: str = ""
    kinds: tuple[str, ...] = SAMPLED


def plan(
    robot: str,
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
    """Every task in every deployment (None: as trained): the base, memory at each volume, the controls at the largest.

    Controls: each of `variants`, a name and a parameter file; the memory of the next deployment; that of the base as
    trained. working: likewise, but at each volume, of memory that the robot gathered itself with these parameters.
    recurring, memory, kinds: as of `Job`. Raises TrainedDeploymentError for a seed that is not held out, and ValueError
    for a negative volume, a name that is taken, and where nothing is left to run.
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
    taken = ({BASE, MEMORY, WRONG, AS_TRAINED} | working.keys()) & variants.keys()
    taken |= {BASE, MEMORY, WRONG, AS_TRAINED} & working.keys()
    if taken:
        raise ValueError(f"the name {sorted(taken)[0]!r} is taken by a way that is always met; name the variant anew")
    largest = max(volumes)
    jobs = []
    for i, seed in enumerate(deployments):
        following = deployments[(i + 1) % len(deployments)]
        other = following if following != seed else (0 if seed is None else (seed + 1) % TRAINING_SEED)
        ways = [Way(BASE, correct=False), *(Way(MEMORY, volume, seed) for volume in sorted(set(volumes)))]
        if largest:
            ways += [Way(name, largest, seed, (str(file),)) for name, file in variants.items()]
            for name, file in working.items():
                ways += [Way(name, volume, seed, (str(file),), work=True) for volume in sorted({*volumes} - {0})]
            ways.append(Way(WRONG, largest, other))
            if seed is not None:
                ways.append(Way(AS_TRAINED, largest))
        common = episodes, tuple(ways), tuple(map(str, overlays)), recurring, memory, tuple(kinds)
        jobs += [Job(robot, seed, task, *common) for task in tasks]
    return jobs


def scene(deployment: int | None, index: int) -> int:
    """Seed of an evaluated scene: others in each of the first deployments, and none that fills a bank."""
    return (SCENES_A_DEPLOYMENT * (deployment or 0) + index) % SCENES


def remembered_scene(deployment: int | None, index: int) -> int:
    """Seed of a scene that fills a bank."""
    return REMEMBERED_SCENE + scene(deployment, index)
