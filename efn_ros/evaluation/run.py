"""Runs jobs side by side: first the banks that they read, then their episodes; what is there is not run again.

A directory holds `banks/<deployment>`, `banks/<deployment>-<way>` where a robot at work filled it, and
`episodes.jsonl` with a line for each finished episode.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from efn_ros.bank import BankReader
from efn_ros.bank.store.snapshot import FirstRollouts
from efn_ros.correction import Corrector
from efn_ros.evaluation.plan import Job, Way, remembered_scene, scene
from efn_ros.retrieval import Retriever
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.factory import make_corrector, make_inference, make_recall, make_simulation, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.types import Mode
from efn_ros.worlds import Deployment, World
from efn_ros.worlds.deployment import SAMPLED, sample_strengths


@dataclass(frozen=True)
class Episode:
    """shifts: kind -> strength. volume: of the memory, in rollouts. length: control steps.

    residual: mean absolute size over corrected decisions. corrected: share of decisions that memory changed. trust:
    mean over those.
    """

    deployment: int | None
    shifts: dict[str, float]
    task: str
    way: str
    volume: int
    seed: int
    success: bool
    length: int
    residual: float
    corrected: float
    confidence: float
    trust: float

    @property
    def key(self) -> tuple:
        return self.deployment, self.task, self.way, self.volume, self.seed


@dataclass(frozen=True)
class Fill:
    """A bank to fill in one deployment (None: as trained), over the tasks in turn: by the base alone, or where a way is
    named, by the robot at work in it, that recalls what it has remembered so far. scenes: so many that are evaluated
    recur; 0 for scenes of its own. kinds: as of `Job`."""

    robot: str
    deployment: int | None
    tasks: tuple[str, ...]
    volume: int
    overlays: tuple[str, ...] = ()
    way: str = ""
    scenes: int = 0
    kinds: tuple[str, ...] = SAMPLED


def evaluate(jobs: Sequence[Job], output: Path, executor: Executor | None = None, processes: int = 2) -> list[Episode]:
    """Run what is missing of one plan and return all its episodes, in its order.

    executor: anything with the interface of concurrent.futures; else so many processes of its own. Raises ValueError
    where `output` holds episodes that were made with other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    _same_settings(jobs, output / "settings.json")
    log = output / "episodes.jsonl"
    done, missing = _whole(jobs, _read(log))
    _write(log, done)
    total = sum(job.episodes * len(job.ways) for job in jobs)
    own = executor is None
    if own:
        executor = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        fills = [executor.submit(fill_bank, fill, str(output)) for fill in _fills(jobs, missing, output)]
        for future in tqdm(as_completed(fills), desc="banks", total=len(fills), disable=not fills):
            future.result()
        futures: list[Future] = [executor.submit(run_job, job, str(output)) for job in missing]
        there = total - sum(job.episodes * len(job.ways) for job in missing)
        with tqdm(desc="episodes", total=total, initial=there, smoothing=0.02) as progress, log.open("a") as file:
            for future in as_completed(futures):
                episodes = future.result()
                file.write(_lines(episodes))
                file.flush()
                done += episodes
                progress.update(len(episodes))
    finally:
        if own:
            executor.shutdown(cancel_futures=True)
    by_key = {episode.key: episode for episode in done}
    return [by_key[_key(job, way, seed)] for job in jobs for way in job.ways for seed in _scenes(job)]


def fill_bank(fill: Fill, output: str) -> None:
    """Rollouts until the bank holds `volume`; which ones depends on nothing but deployment, tasks and the way."""
    graph, inference, corrector = _parts(fill.robot, fill.overlays)
    remembered, bank = graph.parameters("bank_writer"), _bank(output, fill.deployment, fill.way)
    # Not the same task first everywhere: a bank of one rollout would else always know that one.
    tasks = np.random.default_rng([fill.deployment or 0, 1]).permutation(fill.tasks)
    world = _world(graph, fill.deployment, fill.kinds)
    with make_writer(remembered, bank) as writer:
        recall = make_recall(graph.parameters("experience_retrieval"))
        retriever = Retriever(BankReader(bank), recall) if fill.way else None
        agent = Agent(inference, corrector, retriever, writer, remembered["robot"])
        for i in range(writer.rollouts, fill.volume):
            again = scene(fill.deployment, i // len(tasks) % max(1, fill.scenes))
            agent.run(
                world,
                str(tasks[i % len(tasks)]),
                again if fill.scenes else remembered_scene(fill.deployment, i),
                episode_id=f"remembered-{fill.deployment}-{i}",
                execute_steps=graph.parameters("libero_bridge")["execute_steps"],
                correct=bool(fill.way),
                draws=remembered_scene(fill.deployment, i),
            )


def run_job(job: Job, output: str) -> list[Episode]:
    """All episodes of one task in one deployment; nothing of them is remembered. The banks must be there."""
    graph = _parts(job.robot, job.overlays)[0]
    world = _world(graph, job.deployment, job.kinds)
    readers = {bank: BankReader(bank) for bank in {_bank_of(output, job, way) for way in job.ways}}
    agents = {way: _agent(job, way, readers[_bank_of(output, job, way)]) for way in job.ways}
    steps = graph.parameters("libero_bridge")["execute_steps"]
    return [_episode(job, way, agents[way], world, seed, steps) for seed in _scenes(job) for way in job.ways]


def _agent(job: Job, way: Way, reader: BankReader) -> Agent:
    graph, inference, corrector = _parts(job.robot, job.overlays + way.overlays)
    recall = make_recall(graph.parameters("experience_retrieval"))
    return Agent(inference, corrector, Retriever(FirstRollouts(reader, way.volume), recall))


def _episode(job: Job, way: Way, agent: Agent, world: World, seed: int, execute_steps: int) -> Episode:
    result = agent.run(
        world,
        job.task,
        seed,
        episode_id=f"{job.deployment}-{job.task}-{seed}-{way.name}-{way.volume}",
        execute_steps=execute_steps,
        correct=way.correct,
        record=False,
    )
    changed = [c for c in result.corrections if c.mode == Mode.CORRECTED]
    strengths = {} if job.deployment is None else sample_strengths(job.deployment, job.kinds)
    residual = np.mean([np.abs(c.residual).mean() for c in changed]) if changed else 0.0
    return Episode(
        job.deployment,
        {kind: round(strength, 4) for kind, strength in strengths.items()},
        job.task,
        way.name,
        way.volume,
        seed,
        result.success,
        result.length,
        residual=round(float(residual), 5),
        corrected=round(len(changed) / len(result.corrections), 4),
        confidence=round(float(np.mean([c.confidence for c in result.corrections])), 4),
        trust=round(float(np.mean([c.trust for c in changed])), 4) if changed else 1.0,
    )


@cache
def _parts(robot: str, overlays: tuple[str, ...]) -> tuple[Graph, Inference, Corrector]:
    """Once a process: a policy takes seconds to load, and a job only some more."""
    graph = Graph.load(robot, overlays)
    inference = _inference(json.dumps(graph.parameters("vla_policy"), sort_keys=True))
    return graph, inference, make_corrector(graph.parameters("efn_corrector"))


@cache
def _inference(parameters: str) -> Inference:
    return make_inference(json.loads(parameters))


def _world(graph: Graph, deployment: int | None, kinds: Sequence[str]) -> World:
    world = _simulation(json.dumps(graph.parameters("libero_bridge"), sort_keys=True))
    world.deployment = Deployment() if deployment is None else Deployment.sample(deployment, kinds)
    return world


@cache
def _simulation(parameters: str) -> World:
    return make_simulation(json.loads(parameters))


def _bank(output: str | Path, deployment: int | None, way: str = "") -> Path:
    whose = "as-trained" if deployment is None else str(deployment)
    return Path(output) / "banks" / "-".join([whose, *way.split()])


def _bank_of(output: str | Path, job: Job, way: Way) -> Path:
    if job.memory and way.bank == job.deployment and not way.work:
        return Path(job.memory)  # of the one deployment that there then is
    return _bank(output, way.bank, way.name if way.work else "")


def _scenes(job: Job) -> list[int]:
    return [scene(job.deployment, i) for i in range(job.episodes)]


def _key(job: Job, way: Way, seed: int) -> tuple:
    return job.deployment, job.task, way.name, way.volume, seed


def _tasks(jobs: Iterable[Job]) -> list[str]:
    return sorted({job.task for job in jobs})


def _fills(jobs: Sequence[Job], missing: Sequence[Job], output: Path) -> list[Fill]:
    """The banks that `missing` read and that hold too few rollouts yet."""
    first, fills = jobs[0], {}
    scenes = first.episodes if first.recurring else 0
    for way in (way for job in missing for way in job.ways):
        bank = _bank_of(output, first, way)
        if bank == Path(first.memory):
            continue
        name, overlays = (way.name, way.overlays) if way.work else ("", ())
        volume = max(way.volume, fills[bank].volume if bank in fills else 0)
        laid = first.overlays + overlays
        fills[bank] = Fill(first.robot, way.bank, tuple(_tasks(jobs)), volume, laid, name, scenes, first.kinds)
    return [fill for bank, fill in fills.items() if len(BankReader(bank).rollouts()) < fill.volume]


def _whole(jobs: Sequence[Job], episodes: Sequence[Episode]) -> tuple[list[Episode], list[Job]]:
    """The episodes to keep, and the jobs, with the ways that lack a scene; their other episodes are made again."""
    there, missing = {e.key for e in episodes}, []
    for job in jobs:
        ways = tuple(way for way in job.ways if not all(_key(job, way, seed) in there for seed in _scenes(job)))
        if ways:
            missing.append(replace(job, ways=ways))
    again = {_key(job, way, seed) for job in missing for way in job.ways for seed in _scenes(job)}
    return [e for e in episodes if e.key not in again], missing


def _same_settings(jobs: Sequence[Job], file: Path) -> None:
    """A directory holds episodes of one kind: raises ValueError where its were made with other settings."""

    def texts(overlays: Iterable[str]) -> list[str]:
        return [Path(overlay).read_text() for overlay in overlays]

    settings = {
        "robot": jobs[0].robot,
        "tasks": _tasks(jobs),
        "parameters": texts(jobs[0].overlays),
        "ways": {way.name: texts(way.overlays) for job in jobs for way in job.ways},
        "recurring": jobs[0].episodes if jobs[0].recurring else 0,
        "memory": jobs[0].memory,
        "kinds": list(jobs[0].kinds),
    }
    if file.exists():
        before = json.loads(file.read_text())
        settings["ways"] = {**before["ways"], **settings["ways"]}
        before["ways"] = {**settings["ways"], **before["ways"]}
        if before != settings:
            raise ValueError(
                f"{file.parent} holds episodes of another robot, tasks, parameters or scenes; name another directory"
            )
    file.write_text(json.dumps(settings, indent=1) + "\n")


def _read(log: Path) -> list[Episode]:
    """Without a last line that a crash tore."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [Episode(**json.loads(line)) for line in lines if line.endswith("\n")]


def _write(log: Path, episodes: Iterable[Episode]) -> None:
    partial = log.with_suffix(".tmp")
    partial.write_text(_lines(episodes))
    partial.replace(log)


def _lines(episodes: Iterable[Episode]) -> str:
    return "".join(json.dumps(asdict(e)) + "\n" for e in episodes)
