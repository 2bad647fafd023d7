# SPDX-License-Identifier: MIT
"""Runs jobs in parallel: first the banks that they recall from, then their episodes; finished ones are not run again.

A directory holds the banks `banks/<deployment>` of the base policy, `banks/<deployment>-<condition>` of a corrected
robot, and `episodes.jsonl` with a line for each finished episode.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from efn_ros.bank import BankReader
from efn_ros.bank.store.snapshot import FirstRollouts
from efn_ros.evaluation import episodes as log_of
from efn_ros.evaluation.banks import bank_of, fill_bank, missing_banks
from efn_ros.evaluation.episodes import EvaluatedEpisode, key_of
from efn_ros.evaluation.parts import make_parts, make_world_of
from efn_ros.evaluation.plan import Condition, Job, scenes
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.factory import make_retriever
from efn_ros.types import Mode
from efn_ros.worlds import World
from efn_ros.worlds.deployment import sample_strengths

CONDITIONS = "conditions"


def evaluate(
    jobs: Sequence[Job], output: Path, executor: Executor | None = None, processes: int = 2
) -> list[EvaluatedEpisode]:
    """Run the missing episodes of a plan.

    Args:
        jobs: The plan.
        output: Directory of the evaluation.
        executor: Runs the jobs; None: a pool of processes.
        processes: Size of the pool.

    Returns:
        All episodes, in the plan's order.

    Raises:
        ValueError: `output` holds episodes of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    _check_settings(jobs, output / "settings.json")
    log = output / "episodes.jsonl"
    done, missing = _split(jobs, log_of.read(log))
    log_of.write(log, done)
    total = sum(job.episodes * len(job.conditions) for job in jobs)
    pool = executor or ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        fills = [pool.submit(fill_bank, fill, str(output)) for fill in missing_banks(jobs, missing, output)]
        for filled in tqdm(as_completed(fills), desc="banks", total=len(fills), disable=not fills):
            filled.result()
        futures: list[Future] = [pool.submit(run_job, job, str(output)) for job in missing]
        initial = total - sum(job.episodes * len(job.conditions) for job in missing)
        with tqdm(desc="episodes", total=total, initial=initial, smoothing=0.02) as progress, log.open("a") as file:
            for future in as_completed(futures):
                episodes = future.result()
                file.write(log_of.as_lines(episodes))
                file.flush()
                done += episodes
                progress.update(len(episodes))
    finally:
        if executor is None:
            pool.shutdown(cancel_futures=True)
    by_key = {episode.key: episode for episode in done}
    return [by_key[key_of(job, c, seed)] for job in jobs for c in job.conditions for seed in scenes(job)]


def run_job(job: Job, output: str) -> list[EvaluatedEpisode]:
    """Run all episodes of a job, without storing any in a bank. The banks must be filled."""
    graph = make_parts(job.graph, job.overlays)[0]
    world = make_world_of(graph, job.deployment, job.kinds)
    readers = {bank: BankReader(bank) for bank in {bank_of(output, job, c) for c in job.conditions}}
    agents = {c: _agent(job, c, readers[bank_of(output, job, c)]) for c in job.conditions}
    steps = graph.world["execute_steps"]
    return [_run_episode(job, c, agents[c], world, seed, steps) for seed in scenes(job) for c in job.conditions]


def _agent(job: Job, condition: Condition, reader: BankReader) -> Agent:
    graph, inference, corrector = make_parts(job.graph, job.overlays + condition.overlays)
    source = FirstRollouts(reader, condition.volume)
    return Agent(inference, corrector, make_retriever(graph.parameters("experience_retrieval"), source))


def _run_episode(
    job: Job, condition: Condition, agent: Agent, world: World, seed: int, execute_steps: int
) -> EvaluatedEpisode:
    result = agent.run(
        world,
        job.task,
        seed,
        episode_id=f"{job.deployment}-{job.task}-{seed}-{condition.name}-{condition.volume}",
        execute_steps=execute_steps,
        correct=condition.correct,
        record=False,
    )
    changed = [c for c in result.corrections if c.mode == Mode.CORRECTED]
    strengths = {} if job.deployment is None else sample_strengths(job.deployment, job.kinds)
    residual = np.mean([np.abs(c.residual).mean() for c in changed]) if changed else 0.0
    return EvaluatedEpisode(
        job.deployment,
        {kind: round(strength, 4) for kind, strength in strengths.items()},
        job.task,
        condition.name,
        condition.volume,
        seed,
        result.success,
        result.length,
        residual=round(float(residual), 5),
        corrected=round(len(changed) / len(result.corrections), 4),
        confidence=round(float(np.mean([c.confidence for c in result.corrections])), 4),
        trust=round(float(np.mean([c.trust for c in changed])), 4) if changed else 1.0,
    )


def _split(jobs: Sequence[Job], episodes: Sequence[EvaluatedEpisode]) -> tuple[list[EvaluatedEpisode], list[Job]]:
    """Episodes to retain, and jobs with the incomplete conditions, all of whose episodes are run again."""
    done, missing = {e.key for e in episodes}, []
    for job in jobs:
        incomplete = tuple(c for c in job.conditions if not all(key_of(job, c, seed) in done for seed in scenes(job)))
        if incomplete:
            missing.append(replace(job, conditions=incomplete))
    again = {key_of(job, c, seed) for job in missing for c in job.conditions for seed in scenes(job)}
    return [e for e in episodes if e.key not in again], missing


def _check_settings(jobs: Sequence[Job], file: Path) -> None:
    """Refuse a directory with other settings, and write the settings; new conditions are added to them."""

    def texts(overlays: Iterable[str]) -> list[str]:
        return [Path(overlay).read_text() for overlay in overlays]

    settings = {
        "graph": jobs[0].graph,
        "tasks": sorted({job.task for job in jobs}),
        "parameters": texts(jobs[0].overlays),
        CONDITIONS: {c.name: texts(c.overlays) for job in jobs for c in job.conditions},
        "recurring": jobs[0].episodes if jobs[0].recurring else 0,
        "memory": jobs[0].memory,
        "kinds": list(jobs[0].kinds),
    }
    if file.exists():
        before = json.loads(file.read_text())
        settings[CONDITIONS] = {**before.get(CONDITIONS, {}), **settings[CONDITIONS]}
        before[CONDITIONS] = {**settings[CONDITIONS], **before.get(CONDITIONS, {})}
        if before != settings:
            raise ValueError(
                f"{file.parent} holds episodes of another graph, tasks, parameters or scenes; name another directory"
            )
    file.write_text(json.dumps(settings, indent=1) + "\n")
