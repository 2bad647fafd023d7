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

from efn_ros.report.results import (  # noqa: E402
    CONFIDENCE,
    EVALUATION,
    WAYS,
    comparisons_of,
    largest_memory,
    working_ways,
)

BASE, MEMORY, OTHER, WORK = "#9a9a9a", "#d66020", "#3b5b8c", "#7a3b10"


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
    save(figure, path)


def volumes_figure(path: Path, results: dict) -> None:
    """Success, steps and size of the residual by volume of the memory; base and controls beside it."""
    every = comparisons_of(results, "all")
    memory = sorted((c for c in every if c["way"] == "memory"), key=lambda c: c["volume"])
    base = next(c for c in every if c["way"] == "base")
    work = [sorted((c for c in every if c["way"] == way), key=lambda c: c["volume"]) for way in working_ways(results)]
    controls = [c for c in every if c["way"] not in ("base", "memory", *working_ways(results))]
    places, beside = np.arange(len(memory)), len(memory) + 0.5 + np.arange(len(controls))
    ticks = [str(c["volume"]) for c in memory] + [WAYS.get(c["way"], c["way"]) for c in controls]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), constrained_layout=True)

    sides = [(places, memory, "o-", MEMORY, "memory")]
    at = {c["volume"]: place for place, c in zip(places, memory, strict=True)}
    for every, style in zip(work, ("s--", "^:", "v-.", "<--", ">:"), strict=False):
        curve = [c for c in every if c["volume"] in at]
        sides.append(([at[c["volume"]] for c in curve], curve, style, WORK, WAYS.get(curve[0]["way"], curve[0]["way"])))
    if controls:
        sides.append((beside, controls, "D", OTHER, "controls"))

    def points(axis: plt.Axes, value: Callable[[dict], float], color: str = "", name: str = "") -> None:
        for place, chosen, style, own, label in sides:
            axis.plot(place, [value(c) for c in chosen], style, color=color or own, label=name or label)

    success, steps, residual = axes
    success.axhline(100 * base["success"]["value"], color=BASE, linestyle="--", label="base alone")
    success.axhspan(*(100 * base["success"][end] for end in ("low", "high")), color=BASE, alpha=0.15, linewidth=0)
    for place, chosen, _, color, _ in sides:
        success.vlines(place, *([100 * c["success"][end] for c in chosen] for end in ("low", "high")), color=color)
    points(success, lambda c: 100 * c["success"]["value"])
    success.set(ylabel="success, % (95 % interval)", ylim=(0, 104), title="Success")
    points(steps, lambda c: _or_nan(c["base_steps"]), BASE, "base, same scenes")
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
    """Failures of the base that memory of the largest volume fixed, and successes that it broke, by task and shift."""
    volume = largest_memory(results)["volume"]
    panels = {
        title: [c for c in comparisons_of(results, group) if (c["way"], c["volume"]) == ("memory", volume)]
        for group, title in (("task", "By task"), ("shift", "By kind of shift"))
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for axis, (title, chosen) in zip(axes, panels.items(), strict=True):
        place = -np.arange(len(chosen))
        axis.barh(place, [c["fixed"] for c in chosen], color=MEMORY, label="fixed")
        axis.barh(place, [-c["broke"] for c in chosen], color=OTHER, label="broke")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(place, [f"{c['of']} ({c['pairs']})" for c in chosen])
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axis.set(title=title, xlabel=f"of the scenes in brackets; {volume} rollouts in memory")
        axis.legend(frameon=False)
    save(figure, path, results["comparisons"])


def reliability_figure(path: Path, results: dict) -> None:
    """Share of episodes that succeeded, by what was said of them before; 95 % intervals."""
    figure, axis = plt.subplots(figsize=(5.4, 5), constrained_layout=True)
    axis.plot((0, 100), (0, 100), "--", color=BASE, label="as often as said")
    for name, colour in (("confidence", OTHER), ("chance", MEMORY)):
        column = {
            key: [100 * b[key] for b in results["forms"][name]["bins"]] for key in ("said", "ended", "low", "high")
        }
        axis.vlines(column["said"], column["low"], column["high"], color=colour, alpha=0.5)
        axis.plot(column["said"], column["ended"], "o-", color=colour, label=name)
    axis.set(xlabel="said before, %", ylabel="succeeded, %", xlim=(0, 102), ylim=(0, 102), title="Following memory")
    axis.legend(frameon=False, loc="upper left")
    save(figure, path, results["forms"])


# Name -> results file, what of it is shown, and how.
FIGURES = {
    "docs/images/volumes.png": (EVALUATION, "comparisons", volumes_figure),
    "docs/images/changes.png": (EVALUATION, "comparisons", changes_figure),
    "docs/images/reliability.png": (CONFIDENCE, "forms", reliability_figure),
}


def refresh(root: Path, draw: bool) -> list[str]:
    """Names of the figures that show other results than the files in a checkout; with `draw` they are drawn anew."""
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
    """shown: what of a results file the figure shows; a digest of it is written into the image."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Comment": _digest(shown)} if shown else None)
    plt.close(figure)
