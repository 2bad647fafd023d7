"""What is kept of an evaluated episode: a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from efn_ros.evaluation.plan import Condition, Job


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One scene under one condition."""

    deployment: int | None
    shifts: dict[str, float]  # kind -> strength
    task: str
    condition: str
    volume: int  # of the memory, rollouts
    seed: int  # of the scene
    success: bool
    length: int  # control steps
    residual: float  # mean absolute size over corrected decisions
    corrected: float  # share of decisions that memory changed
    confidence: float  # mean over all decisions
    trust: float  # mean over corrected decisions

    @property
    def key(self) -> tuple:
        """What no two episodes of an evaluation share."""
        return self.deployment, self.task, self.condition, self.volume, self.seed


def key_of(job: Job, condition: Condition, seed: int) -> tuple:
    """Return the key of an episode to be."""
    return job.deployment, job.task, condition.name, condition.volume, seed


def read(log: Path) -> list[EvaluatedEpisode]:
    """Read a log, without a last line that a crash cut short."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [EvaluatedEpisode(**json.loads(line)) for line in lines if line.endswith("\n")]


def write(log: Path, episodes: Iterable[EvaluatedEpisode]) -> None:
    """Replace a log."""
    partial = log.with_suffix(".tmp")
    partial.write_text(as_lines(episodes))
    partial.replace(log)


def as_lines(episodes: Iterable[EvaluatedEpisode]) -> str:
    """Return a line of JSON for each episode."""
    return "".join(json.dumps(asdict(episode)) + "\n" for episode in episodes)
