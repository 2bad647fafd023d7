# SPDX-License-Identifier: MIT
"""Figures of the demo and of the documents, drawn without a display."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - the backend is chosen first
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402
from PIL import Image  # noqa: E402

from efn_ros.evaluation.plan import BASE, MEMORY  # noqa: E402
from efn_ros.report.blocks import CONFIDENCE, EVALUATION  # noqa: E402
from efn_ros.report.blocks.evaluation import (  # noqa: E402
    comparisons_of,
    condition_title,
    largest_memory,
    working_conditions,
)

BASE_COLOR, MEMORY_COLOR, OTHER_COLOR, WORK_COLOR = "#9a9a9a", "#d66020", "#3b5b8c", "#7a3b10"


def demo_figure(
    path: Path, tasks: Sequence[str], base: Sequence[float], memory: Sequence[float], stages: Mapping[str, np.ndarray]
) -> None:
    """Draw success by task without and with memory, and the latency of each stage.

    Args:
        path: Of the PNG.
        tasks: Their names.
        base: Success rate of the base policy alone on each task, fraction of 1.
        memory: Success rate with memory on each task.
        stages: Stage -> latencies, s.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    x = np.arange(len(tasks))
    left.bar(x - 0.2, 100 * np.asarray(base), 0.4, color=BASE_COLOR, label="base alone")
    left.bar(x + 0.2, 100 * np.asarray(memory), 0.4, color=MEMORY_COLOR, label="base + memory")
    left.set_xticks(x, tasks, rotation=30, ha="right")
    left.set(ylabel="success, %", ylim=(0, 119), title="Same scenes, same seeds")
    left.legend(frameon=False, ncols=2, loc="upper left")
    names = list(stages)
    scale = "log" if any((values > 0).any() for values in stages.values()) else "linear"
    right.boxplot([1000 * stages[name] for name in names], showfliers=False, whis=(1, 99))
    right.set_xticks(range(1, len(names) + 1), names)
    right.set(ylabel="ms", title="Latency by stage (whiskers: 1 % to 99 %)", yscale=scale)
    save(figure, path)


def volumes_figure(path: Path, results: dict) -> None:
    """Draw success, steps and size of the residual by volume of the bank, with base policy and controls."""
    every = comparisons_of(results, "all")
    working = working_conditions(results)

    def by_volume(condition: str) -> list[dict]:
        return sorted((c for c in every if c["condition"] == condition), key=lambda c: c["volume"])

    memory, (base, *_), work = by_volume(MEMORY), by_volume(BASE), [by_volume(condition) for condition in working]
    controls = [c for c in every if c["condition"] not in (BASE, MEMORY, *working)]
    x, x_controls = np.arange(len(memory)), len(memory) + 0.5 + np.arange(len(controls))
    ticks = [str(c["volume"]) for c in memory] + [condition_title(c["condition"]) for c in controls]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), constrained_layout=True)

    curves: list[tuple[Sequence[float], list[dict], str, str, str]] = [
        (x.tolist(), memory, "o-", MEMORY_COLOR, "memory")
    ]
    x_of = {c["volume"]: place for place, c in enumerate(memory)}
    for comparisons, style in zip(work, ("s--", "^:", "v-.", "<--", ">:"), strict=False):
        curve = [c for c in comparisons if c["volume"] in x_of]
        title = condition_title(curve[0]["condition"])
        curves.append(([x_of[c["volume"]] for c in curve], curve, style, WORK_COLOR, title))
    if controls:
        curves.append((x_controls.tolist(), controls, "D", OTHER_COLOR, "controls"))

    def plot(axis: Axes, value: Callable[[dict], float], color: str = "", name: str = "") -> None:
        for at, chosen, style, own, label in curves:
            axis.plot(at, [value(c) for c in chosen], style, color=color or own, label=name or label)

    success, steps, residual = axes
    success.axhline(100 * base["success"]["value"], color=BASE_COLOR, linestyle="--", label="base alone")
    success.axhspan(*(100 * base["success"][end] for end in ("low", "high")), color=BASE_COLOR, alpha=0.15, linewidth=0)
    for at, chosen, _, color, _ in curves:
        success.vlines(at, *([100 * c["success"][end] for c in chosen] for end in ("low", "high")), color=color)
    plot(success, lambda c: 100 * c["success"]["value"])
    success.set(ylabel="success, % (95 % interval)", ylim=(0, 104), title="Success")
    plot(steps, lambda c: _or_nan(c["base_steps"]), BASE_COLOR, "base, same scenes")
    plot(steps, lambda c: _or_nan(c["steps"]))
    steps.set(ylabel="control steps", title="Steps where both succeeded")
    plot(residual, lambda c: c["residual"])
    residual.set(ylabel="mean absolute residual", title="Size of the correction", ylim=(0, None))
    for axis in axes:
        axis.set_xticks([*x, *x_controls], ticks, rotation=30, ha="right")
        axis.set_xlabel("rollouts in the bank" + (f"; controls with {memory[-1]['volume']}" if controls else ""))
        handles, labels = axis.get_legend_handles_labels()
        first = dict(zip(reversed(labels), reversed(handles), strict=True))  # of each label
        axis.legend(first.values(), first.keys(), frameon=False)
    save(figure, path, results["comparisons"])


def changes_figure(path: Path, results: dict) -> None:
    """Draw the failures of the base policy that memory of the largest volume fixed, and the successes it broke."""
    volume = largest_memory(results)["volume"]
    panels = {
        title: [c for c in comparisons_of(results, group) if (c["condition"], c["volume"]) == (MEMORY, volume)]
        for group, title in (("task", "By task"), ("shift", "By kind of shift"))
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for axis, (title, chosen) in zip(axes, panels.items(), strict=True):
        y = -np.arange(len(chosen))
        axis.barh(y, [c["fixed"] for c in chosen], color=MEMORY_COLOR, label="fixed")
        axis.barh(y, [-c["broke"] for c in chosen], color=OTHER_COLOR, label="broke")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(y, [f"{c['of']} ({c['pairs']})" for c in chosen])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axis.set(title=title, xlabel=f"of the scenes in brackets; {volume} rollouts in the bank")
        axis.legend(frameon=False)
    save(figure, path, results["comparisons"])


def reliability_figure(path: Path, results: dict) -> None:
    """Draw the observed success rate of episodes over the predicted one, with 95 % intervals."""
    figure, axis = plt.subplots(figsize=(5.4, 5), constrained_layout=True)
    axis.plot((0, 100), (0, 100), "--", color=BASE_COLOR, label="as predicted")
    for name, color in (("confidence", OTHER_COLOR), ("success_probability", MEMORY_COLOR)):
        bins = results["forms"][name]["bins"]
        column = {key: [100 * b[key] for b in bins] for key in ("predicted", "observed", "low", "high")}
        axis.vlines(column["predicted"], column["low"], column["high"], color=color, alpha=0.5)
        axis.plot(column["predicted"], column["observed"], "o-", color=color, label=name.replace("_", " "))
    axis.set(xlabel="predicted, %", ylabel="succeeded, %", xlim=(0, 102), ylim=(0, 102), title="Following memory")
    axis.legend(frameon=False, loc="upper left")
    save(figure, path, results["forms"])


# Name -> results file, the part of it that is shown, and the function that draws it.
FIGURES = {
    "docs/images/volumes.png": (EVALUATION, "comparisons", volumes_figure),
    "docs/images/changes.png": (EVALUATION, "comparisons", changes_figure),
    "docs/images/reliability.png": (CONFIDENCE, "forms", reliability_figure),
}


def refresh(root: Path, draw: bool) -> list[str]:
    """Return the names of figures that differ from the results files in a checkout; with `draw`, draw them anew."""
    stale = []
    for name, (file, part, draw_figure) in FIGURES.items():
        if not (root / file).is_file():
            continue
        results = json.loads((root / file).read_text())
        if _drawn_from(root / name) != _digest(results[part]):
            stale.append(name)
            if draw:
                draw_figure(root / name, results)
    return stale


def _digest(shown: list | dict) -> str:
    """Digest of what a figure shows, and of this module, which draws it."""
    return hashlib.blake2b(json.dumps(shown).encode() + Path(__file__).read_bytes(), digest_size=16).hexdigest()


def _drawn_from(path: Path) -> str:
    """The digest stored in a figure; empty if there is none."""
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        return image.info.get("Comment", "")


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def save(figure: Figure, path: Path, shown: list | dict | None = None) -> None:
    """Write a figure.

    Args:
        figure: The figure, which is closed.
        path: Of the PNG.
        shown: The part of a results file that it shows, whose digest is stored in the image.
    """
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Comment": _digest(shown)} if shown else None)
    plt.close(figure)
