# SPDX-License-Identifier: MIT
"""Comparison of a condition with the base policy on the same scenes, with intervals from a hierarchical bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from efn_ros.evaluation.episodes import EvaluatedEpisode
from efn_ros.evaluation.plan import BASE

ALL, TASK, SHIFT = "all", "task", "shift"


@dataclass(frozen=True)
class Estimate:
    """A rate with its interval."""

    value: float  # of the whole sample
    low: float  # of the 95 % interval
    high: float  # upper end of the interval


@dataclass(frozen=True)
class Comparison:
    """A condition and the base policy on the scenes that were run under both; rates are fractions of 1."""

    group: str  # ALL, TASK or SHIFT
    of: str  # the task or the kind of shift
    condition: str  # compared with the base policy alone
    volume: int  # rollouts of the bank
    pairs: int  # scenes
    base: Estimate  # success of the base
    success: Estimate  # of the condition
    difference: Estimate  # success minus that of the base
    removed: Estimate | None  # fraction of the base's failures, net of those added; None if the base never failed
    fixed: int  # scenes with success under the condition alone
    broke: int  # scenes with success under the base alone
    steps: float | None  # mean control steps where both succeeded; None if they never did
    base_steps: float | None  # likewise, of the base
    residual: float  # mean absolute size
    trust: float  # mean trust in the recalled steps


def compare(
    episodes: Iterable[EvaluatedEpisode],
    condition: str,
    volume: int,
    *,
    group: str = ALL,
    of: str = "",
    resamples: int = 10_000,
) -> Comparison:
    """Compare a condition with the base policy.

    Raises:
        ValueError: No scene was run under both.
    """
    episodes = list(episodes)
    base = {_scene(e): e for e in episodes if e.condition == BASE}
    other = {_scene(e): e for e in episodes if (e.condition, e.volume) == (condition, volume)}
    keys = sorted(base.keys() & other.keys())
    if not keys:
        raise ValueError(f"no scene was run both by the base and under {condition!r} with a memory of {volume}")
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
        condition,
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


def comparisons(episodes: Sequence[EvaluatedEpisode], resamples: int = 10_000) -> list[Comparison]:
    """Compare every condition, in the order of its first episode, over all scenes, by task and by kind of shift.

    A deployment with several kinds of shift belongs to the group of each.
    """
    conditions = dict.fromkeys((e.condition, e.volume) for e in episodes)
    groups = {(ALL, ""): list(episodes)}
    for task in dict.fromkeys(e.task for e in episodes):
        groups[TASK, task] = [e for e in episodes if e.task == task]
    for kind in sorted({kind for e in episodes for kind in e.shifts}):
        groups[SHIFT, kind] = [e for e in episodes if kind in e.shifts]
    return [
        compare(chosen, condition, volume, group=group, of=of, resamples=resamples)
        for (group, of), chosen in groups.items()
        for condition, volume in conditions
    ]


@lru_cache(maxsize=2)
def draw_counts(keys: tuple[tuple, ...], resamples: int, seed: int = 0) -> np.ndarray:
    """Count how often each pair is drawn in each resample of a hierarchical bootstrap.

    Deployments are drawn with replacement, then tasks within each drawn deployment, then scenes within each drawn task,
    each time as many as exist. Failures of a deployment are correlated, so an interval over independent pairs would be
    too narrow.

    Args:
        keys: (deployment, task, scene) of each pair, sorted.
        resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        Counts, float64 (resamples, pairs).
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


def _scene(episode: EvaluatedEpisode) -> tuple[int, str, int]:
    return -1 if episode.deployment is None else episode.deployment, episode.task, episode.seed


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
