"""Paired evaluation without ROS: the base alone and base + memory, on the same scenes, as trained and in deployments.

One job is a task in a deployment. It first lets the base fill a memory on scenes of its own, then meets every scene
twice: once without memory, once with it. The memory keeps growing with what it corrected. Each finished episode is a
line of `episodes.jsonl`; jobs that are whole there are not run again.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from efn_ros.graph import Graph, config_directory
from efn_ros.types import Mode

REMEMBERED_SEED = 50_000  # first scene of the episodes that fill the memory; evaluation uses scenes from 0
BASE, MEMORY = "base", "memory"


@dataclass(frozen=True)
class Job:
    """deployment: name of config/deployments/<name>.yaml, or "as trained". ways: BASE, MEMORY or both."""

    robot: str
    deployment: str
    task: str
    episodes: int
    remembered: int
    overlays: tuple[str, ...] = ()
    ways: tuple[str, ...] = (BASE, MEMORY)


@dataclass(frozen=True)
class Episode:
    """residual: mean absolute size over corrected decisions. corrected: share of decisions that memory changed."""

    deployment: str
    task: str
    way: str
    seed: int
    success: bool
    length: int
    residual: float
    corrected: float
    confidence: float


def evaluate(jobs: Sequence[Job], output: Path, executor: Executor | None = None, processes: int = 2) -> list[Episode]:
    """Run what is missing and return every episode. executor: anything with the interface of concurrent.futures."""
    output.mkdir(parents=True, exist_ok=True)
    _same_settings(jobs, output / "settings.json")
    log = output / "episodes.jsonl"
    done = _read(log)
    missing = [job for job in jobs if not _is_whole(job, done)]
    done = [e for e in done if not any(_of(job, e) for job in missing)]
    _write(log, done)
    own = executor is None
    if own:
        executor = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {executor.submit(run_job, job, str(output)): job for job in missing}
        for future in tqdm(as_completed(futures), total=len(futures), desc="tasks in deployments"):
            done += future.result()
            _write(log, done)
    finally:
        if own:
            executor.shutdown(cancel_futures=True)
    return [e for e in done if any(_of(job, e) for job in jobs)]


def run_job(job: Job, output: str) -> list[Episode]:
    """All episodes of one task in one deployment, with a memory of their own."""
    from efn_ros.assembly import make_agent, make_simulation

    overlays = [*job.overlays]
    if job.deployment != "as trained":
        overlays.append(str(config_directory() / "deployments" / f"{job.deployment}.yaml"))
    graph = Graph.load(job.robot, overlays)
    bridge = graph.parameters("libero_bridge")
    bank = Path(output) / "banks" / f"{job.deployment}-{job.task.replace('/', '-')}"
    if bank.exists():  # of a run that was interrupted
        for path in sorted(bank.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    world, agent = make_simulation(bridge), make_agent(graph, bank)
    try:

        def run(seed: int, way: str, correct: bool, record: bool) -> Episode:
            result = agent.run(
                world,
                job.task,
                seed,
                episode_id=f"{way}-{job.task}-{seed}",
                execute_steps=bridge["execute_steps"],
                correct=correct,
                record=record,
            )
            changed = [c for c in result.corrections if c.mode == Mode.CORRECTED]
            return Episode(
                job.deployment,
                job.task,
                way,
                seed,
                result.success,
                result.length,
                residual=float(np.mean([np.abs(c.residual).mean() for c in changed])) if changed else 0.0,
                corrected=len(changed) / len(result.corrections),
                confidence=float(np.mean([c.confidence for c in result.corrections])),
            )

        for i in range(job.remembered):
            run(REMEMBERED_SEED + i, "remembered", correct=False, record=True)
        episodes = []
        for seed in range(job.episodes):
            for way in job.ways:
                episodes.append(run(seed, way, correct=way == MEMORY, record=way == MEMORY))
        return episodes
    finally:
        world.close()
        agent.close()


@dataclass(frozen=True)
class Comparison:
    """Shares of 1; low, high: 95 % interval of the difference, by bootstrap over pairs. steps: of successes."""

    deployment: str
    task: str
    pairs: int
    base: float
    memory: float
    low: float
    high: float
    fixed: int
    broke: int
    base_steps: float
    memory_steps: float
    residual: float


def compare(episodes: Iterable[Episode], deployment: str, task: str, resamples: int = 10_000) -> Comparison:
    """task: one of them, or "all". Raises ValueError where no scene was met both ways."""
    chosen = [e for e in episodes if e.deployment == deployment and task in ("all", e.task)]
    base = {(e.task, e.seed): e for e in chosen if e.way == BASE}
    memory = {(e.task, e.seed): e for e in chosen if e.way == MEMORY}
    keys = sorted(base.keys() & memory.keys())
    if not keys:
        raise ValueError(f"no scene of {task!r} in deployment {deployment!r} was met with and without memory")
    before = np.array([base[k].success for k in keys], float)
    after = np.array([memory[k].success for k in keys], float)
    rng = np.random.default_rng(0)
    means = (after - before)[rng.integers(len(keys), size=(resamples, len(keys)))].mean(axis=1)
    steps = [np.mean([way[k].length for k in keys if way[k].success] or [np.nan]) for way in (base, memory)]
    return Comparison(
        deployment,
        task,
        len(keys),
        before.mean(),
        after.mean(),
        *np.percentile(means, (2.5, 97.5)),
        fixed=int(((after == 1) & (before == 0)).sum()),
        broke=int(((after == 0) & (before == 1)).sum()),
        base_steps=float(steps[0]),
        memory_steps=float(steps[1]),
        residual=float(np.mean([memory[k].residual for k in keys])),
    )


def _same_settings(jobs: Sequence[Job], file: Path) -> None:
    """A directory holds episodes of one kind: raises ValueError where its were made with other settings."""
    kinds = sorted({(job.robot, job.remembered, *(Path(o).read_text() for o in job.overlays)) for job in jobs})
    settings = json.dumps(kinds)
    if file.exists() and file.read_text() != settings:
        raise ValueError(f"{file.parent} holds episodes of another robot, memory or parameters; name another directory")
    file.write_text(settings)


def _of(job: Job, episode: Episode) -> bool:
    return (episode.deployment, episode.task) == (job.deployment, job.task)


def _is_whole(job: Job, episodes: Iterable[Episode]) -> bool:
    there = {(e.way, e.seed) for e in episodes if _of(job, e)}
    return all((way, seed) in there for way in job.ways for seed in range(job.episodes))


def _read(log: Path) -> list[Episode]:
    """Without a last line that a crash tore; its job is then not whole."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [Episode(**json.loads(line)) for line in lines if line.endswith("\n")]


def _write(log: Path, episodes: Iterable[Episode]) -> None:
    partial = log.with_suffix(".tmp")
    partial.write_text("".join(json.dumps(asdict(e)) + "\n" for e in episodes))
    partial.replace(log)
