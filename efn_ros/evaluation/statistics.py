"""What a way is worth beside the base, on the same scenes, with intervals that know how scenes hang together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from efn_ros.evaluation.plan import BASE
from efn_ros.evaluation.run import Episode

ALL, TASK, SHIFT = "all", "task", "shift"


@dataclass(frozen=True)
class Estimate:
    """low, high: 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A way beside the base, on the scenes that both have met; shares of 1.

    group: ALL, TASK or SHIFT, the scenes of the task or kind `of`. success: of the way; base: of the base. removed:
    share of the base's failures that the way leaves, net of those it adds; None where the base never failed. fixed,
    broke: scenes. steps, base_steps: mean control steps where both succeeded, None where they never did. residual: mean
    absolute size. trust: mean, in what was recalled.
    """

    group: str
    of: str
    way: str
    volume: int
    pairs: int
    base: Estimate
    success: Estimate
    difference: Estimate
    removed: Estimate | None
    fixed: int
    broke: int
    steps: float | None
    base_steps: float | None
    residual: float
    trust: float


def compare(
    episodes: Iterable[Episode], way: str, volume: int, *, group: str = ALL, of: str = "", resamples: int = 10_000
) -> Comparison:
    """Raises ValueError where no scene was met both ways."""
    episodes = list(episodes)
    base = {_scene(e): e for e in episodes if e.way == BASE}
    other = {_scene(e): e for e in episodes if (e.way, e.volume) == (way, volume)}
    keys = sorted(base.keys() & other.keys())
    if not keys:
        raise ValueError(f"no scene was met both by the base and by {way!r} with a memory of {volume}")
    before, after = (np.array([side[k].success for k in keys], float) for side in (base, other))
    draws = draw_counts(tuple(keys), resamples)
    drawn = draws.sum(axis=1)

    def estimate(values: np.ndarray) -> Estimate:
        return Estimate(float(values.mean()), *_interval(draws @ values / drawn))

    removed = None
    if not before.all():
        failed, gained = draws @ (1 - before), draws @ (after - before)
        share = gained[failed > 0] / failed[failed > 0]
        removed = Estimate(float((after - before).sum() / (1 - before).sum()), *_interval(share))
    both = [k for k in keys if base[k].success and other[k].success]
    steps, base_steps = (float(np.mean([side[k].length for k in both])) if both else None for side in (other, base))
    return Comparison(
        group,
        of,
        way,
        volume,
        len(keys),
        estimate(before),
        estimate(after),
        estimate(after - before),
        removed,
        fixed=int(((after == 1) & (before == 0)).sum()),
        broke=int(((after == 0) & (before == 1)).sum()),
        steps=steps,
        base_steps=base_steps,
        residual=float(np.mean([other[k].residual for k in keys])),
        trust=float(np.mean([other[k].trust for k in keys])),
    )


def comparisons(episodes: Sequence[Episode], resamples: int = 10_000) -> list[Comparison]:
    """Every way, in the order of its first episode, over all scenes, by task and by kind of shift.

    A deployment counts for each kind of shift that it has.
    """
    ways = dict.fromkeys((e.way, e.volume) for e in episodes)
    groups = {(ALL, ""): list(episodes)}
    for task in dict.fromkeys(e.task for e in episodes):
        groups[TASK, task] = [e for e in episodes if e.task == task]
    for kind in sorted({kind for e in episodes for kind in e.shifts}):
        groups[SHIFT, kind] = [e for e in episodes if kind in e.shifts]
    return [
        compare(chosen, way, volume, group=group, of=of, resamples=resamples)
        for (group, of), chosen in groups.items()
        for way, volume in ways
    ]


@lru_cache(maxsize=2)
def draw_counts(keys: tuple[tuple, ...], resamples: int, seed: int = 0) -> np.ndarray:
    """How often each pair is drawn in each resample of a hierarchical bootstrap, float64 (resamples, pairs).

    keys: (deployment, task, scene), sorted. With replacement as many deployments as there are, in each of these as many
    tasks as it has, in each of these as many scenes: failures of a deployment come together, and a bootstrap over
    pairs alone would be too sure of itself.
    """
    rng = np.random.default_rng(seed)

    def counts(rest: list[tuple], times: np.ndarray) -> np.ndarray:
        branches: dict[object, list[tuple]] = {}
        for first, *others in rest:
            branches.setdefault(first, []).append(tuple(others))
        n = len(branches)
        # `times` draws of n branches each, from the same branches: together one multinomial draw.
        drawn = rng.multinomial(times * n, np.full(n, 1 / n))
        columns = [
            counts(branch, count) if branch[0] else count[:, None]
            for branch, count in zip(branches.values(), drawn.T, strict=True)
        ]
        return np.concatenate(columns, axis=1)

    return counts(list(keys), np.ones(resamples, np.int64)).astype(float)


def _scene(episode: Episode) -> tuple[int, str, int]:
    return -1 if episode.deployment is None else episode.deployment, episode.task, episode.seed


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
