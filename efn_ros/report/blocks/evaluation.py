# SPDX-License-Identifier: MIT
"""Blocks of `./efn evaluate`: conditions over all scenes, by task and by kind of shift."""

from __future__ import annotations

from efn_ros.correction.exploration import MODES
from efn_ros.evaluation.plan import (
    AS_TRAINED_MEMORY,
    BASE,
    MEMORY,
    NO_MEMORY,
    OTHER_MEMORY,
    OTHER_MEMORY_BEFORE,
    RECALLED_ACTION,
    WORK,
)
from efn_ros.evaluation.statistics import ALL
from efn_ros.report import tables
from efn_ros.report.blocks._common import Results, source
from efn_ros.worlds.deployment import SAMPLED

# Names of conditions in tables; a variant that is not listed has its own name.
CONDITIONS = {
    BASE: "base alone",
    MEMORY: "memory",
    RECALLED_ACTION: "recalled action, no network",
    NO_MEMORY: "network without memory",
    **dict.fromkeys((OTHER_MEMORY, OTHER_MEMORY_BEFORE), "memory of another deployment"),
    AS_TRAINED_MEMORY: "memory of the base as trained",
    WORK: "memory collected at work",
    **{f"{WORK} with {mode}": f"memory collected at work, exploring: {mode}" for mode in MODES},
}


def evaluation_block(results: Results) -> str:
    """Return every condition over all scenes, and a summary of the gain from memory."""
    columns = ["success, 95 %", "failures removed, 95 %", "fixed / broke", "trust", "steps, base", "steps"]
    rows = [
        [
            condition_title(c["condition"]),
            "-" if c["condition"] == BASE else c["volume"],
            _estimate(c["success"]),
            "-" if c["condition"] == BASE else _estimate(c["removed"]),
            "-" if c["condition"] == BASE else f"{c['fixed']} / {c['broke']}",
            "-" if c["condition"] == BASE else tables.percent(c["trust"]),
            _steps(c["base_steps"]),
            _steps(c["steps"]),
        ]
        for c in comparisons_of(results, ALL)
    ]
    memory = largest_memory(results)
    where = "as trained" if results["setting"] == "as-trained" else "in held-out deployments"
    kinds = results.get("kinds", SAMPLED)
    if len(kinds) < len(SAMPLED) and results["setting"] != "as-trained":
        where += f", with these shifts alone: {', '.join(kinds)}"
    origin = "of the given bank" if results.get("bank") else "of the base alone"
    text = (
        f"Success {where}: {tables.percent(memory['base']['value'])} without memory, "
        f"{tables.percent(memory['success']['value'])} with {memory['volume']} rollouts {origin} to recall: "
        f"{_estimate(memory['difference'], sign='+')} points. {_collected(results)}{_counts(results)} Intervals "
        "resample deployments, tasks and scenes; steps are those of scenes where base and condition both succeeded; "
        "trust is how much of the residual was followed."
    )
    return f"{tables.markdown(['condition', 'rollouts', *columns], rows)}\n\n{text} {source(results, memory['pairs'])}"


def by_task_block(results: Results) -> str:
    """Return memory of the largest volume by task."""
    return _broken_down(results, "task", "task")


def by_shift_block(results: Results) -> str:
    """Return memory of the largest volume by kind of shift."""
    return _broken_down(results, "shift", "kind of shift")


def condition_title(name: str) -> str:
    """Return the name of a condition in tables."""
    return CONDITIONS.get(name, name)


def comparisons_of(results: Results, group: str) -> list[dict]:
    """Return the comparisons over all scenes, by task or by kind of shift."""
    return [c for c in results["comparisons"] if c["group"] == group]


def largest_memory(results: Results) -> dict:
    """Return the comparison of memory with the largest volume, over all scenes."""
    memory = (c for c in comparisons_of(results, ALL) if c["condition"] == MEMORY)
    return max(memory, key=lambda c: c["volume"])


def working_conditions(results: Results) -> list[str]:
    """Return the names of the conditions whose memory the robot collected itself."""
    names = dict.fromkeys(c["condition"] for c in comparisons_of(results, ALL))
    return [name for name in names if name.startswith(WORK)]


def _broken_down(results: Results, group: str, title: str) -> str:
    """Memory of the largest volume, and success under every other condition at that volume."""
    volume = largest_memory(results)["volume"]
    chosen = [c for c in comparisons_of(results, group) if c["condition"] != BASE and c["volume"] == volume]
    others = list(dict.fromkeys(c["condition"] for c in chosen if c["condition"] != MEMORY))
    header = [title, "n", "base", "memory", "removed, 95 %", "fixed / broke", "steps, base", "steps"]
    rows = []
    for of in dict.fromkeys(c["of"] for c in chosen):
        by_condition = {c["condition"]: c for c in chosen if c["of"] == of}
        c = by_condition[MEMORY]
        row = [
            of,
            c["pairs"],
            *(tables.percent(c[side]["value"]) for side in ("base", "success")),
            _estimate(c["removed"]),
            f"{c['fixed']} / {c['broke']}",
            _steps(c["base_steps"]),
            _steps(c["steps"]),
        ]
        rows.append([*row, *(tables.percent(by_condition[other]["success"]["value"]) for other in others)])
    table = tables.markdown([*header, *map(condition_title, others)], rows)
    text = f"Memory of {volume} rollouts. {_counts(results)}"
    return f"{table}\n\n{text} {source(results, largest_memory(results)['pairs'])}"


def _collected(results: Results) -> str:
    """Success with memory that the robot collected itself, in words; under the last such condition."""
    working, volume = working_conditions(results), largest_memory(results)["volume"]
    if not working:
        return ""
    last = next(c for c in comparisons_of(results, ALL) if (c["condition"], c["volume"]) == (working[-1], volume))
    success = tables.percent(last["success"]["value"])
    return f"With as many that the robot collected at work, corrected and exploring: {success}. "


def _counts(results: Results) -> str:
    counted = {"deployment": results["deployments"], "task": len(results["tasks"])}
    if results["setting"] == "as-trained":
        del counted["deployment"]
    parts = [f"{n} {name}{'s' * (n != 1)}" for name, n in counted.items()]
    scenes = results["episodes_a_task"]
    return f"{', '.join(parts)}, {scenes} scene{'s' * (scenes != 1)} of each."


def _estimate(estimate: dict | None, sign: str = "") -> str:
    """In percent, with its interval."""
    if estimate is None:
        return "-"
    value, low, high = (f"{100 * estimate[name]:{sign}.0f}" for name in ("value", "low", "high"))
    return f"{value} ({low} .. {high})"


def _steps(steps: float | None) -> str:
    return "-" if steps is None else f"{steps:.0f}"
