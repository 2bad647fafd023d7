"""The blocks of a document that hold results: rendered from results files, so that no figure is copied by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from efn_ros.report import tables

BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n)(.*?)(<!-- /results:\2 -->)", re.DOTALL)
MARK = re.compile(r"<!-- /?results:[\w-]+ -->")


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """The document with the content of every block replaced. Raises ValueError for an unknown or unfinished block."""

    def content(match: re.Match) -> str:
        if match[2] not in blocks:
            raise ValueError(f"there are no results {match[2]!r}; there are {', '.join(sorted(blocks))}")
        return f"{match[1]}{blocks[match[2]]}\n{match[4]}"

    filled, count = BLOCK.subn(content, text)
    if len(MARK.findall(text)) != 2 * count:
        raise ValueError("a results block lacks its beginning, its end or a line break after its beginning")
    return filled


def render(root: Path) -> dict[str, str]:
    """Name of a block -> Markdown, from the results files in a checkout."""
    return {name: _render(root / path, make, command) for name, (path, make, command) in BLOCKS.items()}


def _render(path: Path, make: Callable[[dict], str], command: str) -> str:
    if not path.is_file():
        return f"*No results file is here yet. `{command}` makes one.*"
    return make(json.loads(path.read_text()))


def latency_block(results: dict) -> str:
    from efn_ros.report.latency import STAGES

    names = {**STAGES, "relay_hop": "plain relay: one hop", "relay_round_trip": "plain relay: there and back"}
    columns = ("p50_s", "p95_s", "p99_s", "max_s")
    rows = [
        [names.get(stage, stage), *(tables.milliseconds(values[c]) for c in columns), values["n"]]
        for stage, values in results["stages"].items()
    ]
    table = tables.markdown(["latency, ms", "median", "p95", "p99", "max", "n"], rows)
    said = (
        f"{results['rate_hz']:g} images a second; {results['corrected_actions']} corrected actions, "
        f"{results['without_recall']} without an answer of the memory. "
        "The policy costs nothing here."
    )
    return f"{table}\n\n{said} {source(results, results['stages']['total']['n'])}"


def evaluation_block(results: dict) -> str:
    header = ["n", "base", "base + memory", "difference, 95 %", "fixed / broke", "steps", "steps + memory"]

    def cells(c: dict) -> list[str]:
        return [
            str(c["pairs"]),
            tables.percent(c["base"]),
            tables.percent(c["memory"]),
            f"{100 * c['low']:+.0f} .. {100 * c['high']:+.0f}",
            f"{c['fixed']} / {c['broke']}",
            _steps(c["base_steps"]),
            _steps(c["memory_steps"]),
        ]

    every = [c for c in results["comparisons"] if c["task"] == "all"]
    single = [c for c in results["comparisons"] if c["task"] != "all"]
    overall = tables.markdown(["deployment", *header], [[c["deployment"], *cells(c)] for c in every])
    by_task = tables.markdown(
        ["deployment: task", *header], [[f"{c['deployment']}: {c['task']}", *cells(c)] for c in single]
    )
    said = (
        f"{results['episodes_a_task']} scenes a task and deployment, each met without and with memory; "
        f"{results['remembered']} episodes of the base alone fill the memory before. The interval is a bootstrap over "
        "pairs; steps are those of successes."
    )
    return f"{overall}\n\n{by_task}\n\n{said} {source(results, sum(c['pairs'] for c in every))}"


def policy_block(card: dict) -> str:
    rows = [[task, tables.percent(t["success"]), f"{t['steps']:.0f}"] for task, t in card["tasks"].items()]
    table = tables.markdown(["task", "success", "steps"], [*rows, ["mean", tables.percent(card["mean"]), ""]])
    said = "The policy alone, as trained, on scenes that it was not trained on."
    return f"{table}\n\n{said} {source(card, sum(t['n'] for t in card['tasks'].values()))}"


def source(results: dict, n: int) -> str:
    """Machine, date, commit and n: the last words of every block."""
    machine = results["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"*{where}; {results['date']}; commit {results['commit']}; n = {n}.*"


def _steps(steps: float) -> str:
    return "-" if math.isnan(steps) else f"{steps:.0f}"


BLOCKS = {
    "latency": ("bench/results/latency.json", latency_block, "./efn shell python bench/latency.py"),
    "evaluation": (
        "bench/results/evaluation.json",
        evaluation_block,
        "./efn evaluate --results bench/results/evaluation.json",
    ),
    "policy": (
        "efn_ros/policies/pocket_vla/checkpoint/card.json",
        policy_block,
        "./efn train-policy --install",
    ),
}
