"""Figures, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - the backend is chosen first
import numpy as np  # noqa: E402

BASE, MEMORY = "#9a9a9a", "#d66020"


def demo_figure(
    path: Path, tasks: Sequence[str], base: Sequence[float], memory: Sequence[float], stages: Mapping[str, np.ndarray]
) -> None:
    """Success by task, base alone against base and memory (shares of 1), and the latency of each stage (seconds)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    place = np.arange(len(tasks))
    left.bar(place - 0.2, 100 * np.asarray(base), 0.4, color=BASE, label="base alone")
    left.bar(place + 0.2, 100 * np.asarray(memory), 0.4, color=MEMORY, label="base + memory")
    left.set_xticks(place, tasks, rotation=30, ha="right")
    left.set(ylabel="success, %", ylim=(0, 119), title="Same scenes, same seeds")
    left.legend(frameon=False, ncols=2, loc="upper left")
    names = list(stages)
    scale = "log" if any((values > 0).any() for values in stages.values()) else "linear"
    right.boxplot([1000 * stages[name] for name in names], showfliers=False, whis=(1, 99))
    right.set_xticks(range(1, len(names) + 1), names)
    right.set(ylabel="ms", title="Latency by stage (whiskers: 1 % to 99 %)", yscale=scale)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
