# SPDX-License-Identifier: MIT
"""The banks that an evaluation recalls from: their directories, and how they are filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efn_ros.bank import BankReader
from efn_ros.evaluation.parts import make_parts, make_world_of
from efn_ros.evaluation.plan import Condition, Job, bank_scene, scene
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.factory import make_retriever, make_writer
from efn_ros.worlds.deployment import SAMPLED


@dataclass(frozen=True)
class BankFill:
    """A bank to fill in one deployment, over the tasks in turn."""

    graph: str  # name in config/graphs, or path of a document
    deployment: int | None  # its seed; None: as trained
    tasks: tuple[str, ...]  # filled in turn
    volume: int  # rollouts to fill it with
    overlays: tuple[str, ...] = ()  # parameter files laid over the graph's own
    condition: str = ""  # of the robot, which recalls from the bank so far; empty: the base policy alone
    scenes: int = 0  # number of evaluated scenes that recur; 0: scenes of its own
    kinds: tuple[str, ...] = SAMPLED  # as of `Job`


def bank_directory(output: str | Path, deployment: int | None, condition: str = "") -> Path:
    """Return the directory of a bank that an evaluation fills."""
    deployed = "as-trained" if deployment is None else str(deployment)
    return Path(output) / "banks" / "-".join([deployed, *condition.split()])


def bank_of(output: str | Path, job: Job, condition: Condition) -> Path:
    """Return the directory of the bank that a condition recalls from."""
    if job.memory and condition.bank == job.deployment and not condition.work:
        return Path(job.memory)
    return bank_directory(output, condition.bank, condition.name if condition.work else "")


def fill_bank(fill: BankFill, output: str) -> None:
    """Add rollouts until a bank is full; which ones depends on deployment, tasks and condition alone."""
    graph, inference, corrector = make_parts(fill.graph, fill.overlays)
    writing, bank = graph.parameters("bank_writer"), bank_directory(output, fill.deployment, fill.condition)
    # Another task comes first in each deployment, else a bank of one rollout would always hold the same task.
    tasks = np.random.default_rng([fill.deployment or 0, 1]).permutation(fill.tasks)
    world = make_world_of(graph, fill.deployment, fill.kinds)
    with make_writer(writing, bank) as writer:
        retrieval = graph.parameters("experience_retrieval")
        retriever = make_retriever(retrieval, BankReader(bank)) if fill.condition else None
        agent = Agent(inference, corrector, retriever, writer, writing["robot"])
        for i in range(writer.rollouts, fill.volume):
            recurring = scene(fill.deployment, i // len(tasks) % max(1, fill.scenes))
            agent.run(
                world,
                str(tasks[i % len(tasks)]),
                recurring if fill.scenes else bank_scene(fill.deployment, i),
                episode_id=f"bank-{fill.deployment}-{i}",
                execute_steps=graph.world["execute_steps"],
                correct=bool(fill.condition),
                seed=bank_scene(fill.deployment, i),
            )


def missing_banks(jobs: Sequence[Job], missing: Sequence[Job], output: Path) -> list[BankFill]:
    """Return the banks that `missing` recalls from and that are not full yet."""
    first = jobs[0]
    fills: dict[Path, BankFill] = {}
    tasks = tuple(sorted({job.task for job in jobs}))
    for condition in (condition for job in missing for condition in job.conditions):
        bank = bank_of(output, first, condition)
        if bank == Path(first.memory):
            continue
        fills[bank] = BankFill(
            first.graph,
            condition.bank,
            tasks,
            max(condition.volume, fills[bank].volume if bank in fills else 0),
            first.overlays + (condition.overlays if condition.work else ()),
            condition.name if condition.work else "",
            first.episodes if first.recurring else 0,
            first.kinds,
        )
    return [fill for bank, fill in fills.items() if len(BankReader(bank).rollouts()) < fill.volume]
