# SPDX-License-Identifier: MIT
"""The log of evaluated episodes: a line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from efn_ros.evaluation.plan import OTHER_MEMORY, OTHER_MEMORY_BEFORE, Condition, Job


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One scene under one condition."""

    deployment: int | None  # its seed; None: as trained
    shifts: dict[str, float]  # kind -> strength
    task: str  # name in the world
    condition: str  # name of the condition
    volume: int  # rollouts of the bank
    seed: int  # of the scene
    success: bool  # as the world reports it
    length: int  # control steps
    residual: float  # mean absolute size over corrected decisions
    corrected: float  # fraction of decisions that memory changed
    confidence: float  # mean over all decisions
    trust: float  # mean over corrected decisions

    @property
    def key(self) -> tuple:
        """Identity of the episode within an evaluation."""
        return self.deployment, self.task, self.condition, self.volume, self.seed


def key_of(job: Job, condition: Condition, seed: int) -> tuple:
    """Return the key of an episode before it is run."""
    return job.deployment, job.task, condition.name, condition.volume, seed


def read(log: Path) -> list[EvaluatedEpisode]:
    """Read a log, without a last line that is incomplete after a crash."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    renamed = {OTHER_MEMORY_BEFORE: OTHER_MEMORY}
    return [EvaluatedEpisode(**e | {"condition": renamed.get(e["condition"], e["condition"])}) for e in found]


def write(log: Path, episodes: Iterable[EvaluatedEpisode]) -> None:
    """Replace a log."""
    partial = log.with_suffix(".tmp")
    partial.write_text(as_lines(episodes))
    partial.replace(log)


def as_lines(episodes: Iterable[EvaluatedEpisode]) -> str:
    """Return a line of JSON for each episode."""
    return "".join(json.dumps(asdict(episode)) + "\n" for episode in episodes)
