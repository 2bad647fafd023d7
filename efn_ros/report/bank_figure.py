# SPDX-License-Identifier: MIT
"""The figure of a bank: success by day and by task, growth, and a map of its keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from efn_ros.bank.store.filters import date_of
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.report.figures import BASE_COLOR, MEMORY_COLOR, OTHER_COLOR, save
from efn_ros.types import Outcome

MAX_STEPS = 20_000  # on the map
DAY = len("2026-11-22")
COLOURS = {
    Outcome.SUCCESS: OTHER_COLOR,
    Outcome.FAILURE: MEMORY_COLOR,
    Outcome.ABORTED: BASE_COLOR,
    Outcome.UNKNOWN: BASE_COLOR,
}


def bank_figure(rollouts: Sequence[StoredRollout], path: Path) -> None:
    """Draw the figure as PNG. Corrupt rollouts that the reader skips are missing on the map.

    Raises:
        ValueError: There are no rollouts.
    """
    if not rollouts:
        raise ValueError("the bank holds no rollout to draw; record some, or use other filters")
    records = [rollout.record for rollout in rollouts]
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), constrained_layout=True)
    by_day, by_task = defaultdict(list), defaultdict(list)
    for record in records:
        success = record.outcome == Outcome.SUCCESS
        by_day[date_of(record)[:DAY]].append(success)
        by_task[record.task].append(success)
    _bars(axes[0, 0], by_day, "Success by day (UTC); rollouts in brackets")
    _bars(axes[0, 1], by_task, "Success by task")
    began = np.sort([record.start_ns for record in records]).astype("datetime64[ns]")
    growth = axes[1, 0]
    growth.step(began, np.arange(1, len(began) + 1), where="post", color=OTHER_COLOR)
    growth.set(
        title=f"Growth: {len(records)} rollouts, {sum(r.decisions for r in records)} decisions", ylabel="rollouts"
    )
    growth.tick_params(axis="x", rotation=30)
    _map(axes[1, 1], rollouts)
    save(figure, path)


def _bars(axis: Axes, groups: dict[str, list[bool]], title: str) -> None:
    names = sorted(groups)
    axis.bar(range(len(names)), [100 * np.mean(groups[name]) for name in names], color=OTHER_COLOR)
    axis.set_xticks(range(len(names)), [f"{name} ({len(groups[name])})" for name in names], rotation=30, ha="right")
    axis.set(title=title, ylabel="success, %", ylim=(0, 105))


def _map(axis: Axes, rollouts: Sequence[StoredRollout]) -> None:
    """Keys of all steps on their two principal axes, or of every n-th step of a large bank."""
    every = -(-sum(r.record.decisions for r in rollouts) // MAX_STEPS)
    read = [(r.record.outcome, s) for r in rollouts if (s := r.steps) is not None]
    keys = [(steps.key * steps.key_norm[:, None])[::every] for _, steps in read]
    outcomes = np.repeat([int(outcome) for outcome, _ in read], [len(k) for k in keys])
    if not len(outcomes):
        return
    centred = np.concatenate(keys) - np.concatenate(keys).mean(axis=0)
    _, spread, principal = np.linalg.svd(centred.T @ centred)
    points = centred @ principal[:2].T
    for outcome, colour in COLOURS.items():
        rows = outcomes == outcome
        if rows.any():
            axis.scatter(*points[rows].T, s=4, color=colour, alpha=0.5, label=outcome.name.lower(), linewidths=0)
    shown = 100 * spread[:2].sum() / max(spread.sum(), np.finfo(float).tiny)
    axis.set(title=f"Keys on two principal axes ({shown:.0f} % of their variance)", xticks=[], yticks=[])
    axis.legend(frameon=False, markerscale=3)
