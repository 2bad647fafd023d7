"""Figures, drawn without a display."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - the backend is chosen first
import numpy as np  # noqa: E402
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
    """Draw success by task, base alone and base with memory (shares of 1), and the latency of each stage (seconds)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    place = np.arange(len(tasks))
    left.bar(place - 0.2, 100 * np.asarray(base), 0.4, color=BASE_COLOR, label="base alone")
    left.bar(place + 0.2, 100 * np.asarray(memory), 0.4, color=MEMORY_COLOR, label="base + memory")
    left.set_xticks(place, tasks, rotation=30, ha="right")
    left.set(ylabel="success, %", ylim=(0, 119), title="Same scenes, same seeds")
    left.legend(frameon=False, ncols=2, loc="upper left")
    names = list(stages)
    scale = "log" if any((values > 0).any() for values in stages.values()) else "linear"
    right.boxplot([1000 * stages[name] for name in names], showfliers=False, whis=(1, 99))
    right.set_xticks(range(1, len(names) + 1), names)
    right.set(ylabel="ms", title="Latency by stage (whiskers: 1 % to 99 %)", yscale=scale)
    save(figure, path)


def volumes_figure(path: Path, results: dict) -> None:
    """Draw success, steps and size of the residual by volume of the memory; base and controls beside it."""
    every = comparisons_of(results, "all")
    working = working_conditions(results)

    def by_volume(condition: str) -> list[dict]:
        return sorted((c for c in every if c["condition"] == condition), key=lambda c: c["volume"])

    memory, (base, *_), work = by_volume(MEMORY), by_volume(BASE), [by_volume(condition) for condition in working]
    controls = [c for c in every if c["condition"] not in (BASE, MEMORY, *working)]
    places, beside = np.arange(len(memory)), len(memory) + 0.5 + np.arange(len(controls))
    ticks = [str(c["volume"]) for c in memory] + [condition_title(c["condition"]) for c in controls]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), constrained_layout=True)

    sides = [(places, memory, "o-", MEMORY_COLOR, "memory")]
    at = {c["volume"]: place for place, c in zip(places, memory, strict=True)}
    for comparisons, style in zip(work, ("s--", "^:", "v-.", "<--", ">:"), strict=False):
        curve = [c for c in comparisons if c["volume"] in at]
        title = condition_title(curve[0]["condition"])
        sides.append(([at[c["volume"]] for c in curve], curve, style, WORK_COLOR, title))
    if controls:
        sides.append((beside, controls, "D", OTHER_COLOR, "controls"))

    def points(axis: plt.Axes, value: Callable[[dict], float], color: str = "", name: str = "") -> None:
        for place, chosen, style, own, label in sides:
            axis.plot(place, [value(c) for c in chosen], style, color=color or own, label=name or label)

    success, steps, residual = axes
    success.axhline(100 * base["success"]["value"], color=BASE_COLOR, linestyle="--", label="base alone")
    success.axhspan(*(100 * base["success"][end] for end in ("low", "high")), color=BASE_COLOR, alpha=0.15, linewidth=0)
    for place, chosen, _, color, _ in sides:
        success.vlines(place, *([100 * c["success"][end] for c in chosen] for end in ("low", "high")), color=color)
    points(success, lambda c: 100 * c["success"]["value"])
    success.set(ylabel="success, % (95 % interval)", ylim=(0, 104), title="Success")
    points(steps, lambda c: _or_nan(c["base_steps"]), BASE_COLOR, "base, same scenes")
    points(steps, lambda c: _or_nan(c["steps"]))
    steps.set(ylabel="control steps", title="Steps where both succeeded")
    points(residual, lambda c: c["residual"])
    residual.set(ylabel="mean absolute residual", title="Size of the correction", ylim=(0, None))
    for axis in axes:
        axis.set_xticks([*places, *beside], ticks, rotation=30, ha="right")
        axis.set_xlabel("rollouts in memory" + (f"; controls with {memory[-1]['volume']}" if controls else ""))
        handles, labels = axis.get_legend_handles_labels()
        one = dict(zip(reversed(labels), reversed(handles), strict=True))  # the first of each label
        axis.legend(one.values(), one.keys(), frameon=False)
    save(figure, path, results["comparisons"])


def changes_figure(path: Path, results: dict) -> None:
    """Draw failures of the base that memory of the largest volume fixed, and successes that it broke."""
    volume = largest_memory(results)["volume"]
    panels = {
        title: [c for c in comparisons_of(results, group) if (c["condition"], c["volume"]) == (MEMORY, volume)]
        for group, title in (("task", "By task"), ("shift", "By kind of shift"))
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for axis, (title, chosen) in zip(axes, panels.items(), strict=True):
        place = -np.arange(len(chosen))
        axis.barh(place, [c["fixed"] for c in chosen], color=MEMORY_COLOR, label="fixed")
        axis.barh(place, [-c["broke"] for c in chosen], color=OTHER_COLOR, label="broke")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(place, [f"{c['of']} ({c['pairs']})" for c in chosen])
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axis.set(title=title, xlabel=f"of the scenes in brackets; {volume} rollouts in memory")
        axis.legend(frameon=False)
    save(figure, path, results["comparisons"])


def reliability_figure(path: Path, results: dict) -> None:
    """Draw the share of episodes that succeeded, by what was predicted before; 95 % intervals."""
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


# Name -> results file, what of it is shown, and how.
FIGURES = {
    "docs/images/volumes.png": (EVALUATION, "comparisons", volumes_figure),
    "docs/images/changes.png": (EVALUATION, "comparisons", changes_figure),
    "docs/images/reliability.png": (CONFIDENCE, "forms", reliability_figure),
}


def refresh(root: Path, draw: bool) -> list[str]:
    """Return the names of figures that show other results than the files in a checkout; with `draw`, draw them anew."""
    stale = []
    for name, (file, part, drawn) in FIGURES.items():
        if not (root / file).is_file():
            continue
        results = json.loads((root / file).read_text())
        if _drawn_from(root / name) != _digest(results[part]):
            stale.append(name)
            if draw:
                drawn(root / name, results)
    return stale


def _digest(shown: list | dict) -> str:
    """Of all that a figure shows, and of how it is drawn."""
    return hashlib.blake2b(json.dumps(shown).encode() + Path(__file__).read_bytes(), digest_size=16).hexdigest()


def _drawn_from(path: Path) -> str:
    """The digest in a figure; empty where there is none."""
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        return image.info.get("Comment", "")


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def save(figure: plt.Figure, path: Path, shown: list | dict | None = None) -> None:
    """Write a figure. shown: what of a results file it shows, a digest of which is written into the image."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Comment": _digest(shown)} if shown else None)
    plt.close(figure)
