# SPDX-License-Identifier: MIT
"""Blocks of a robot's bridge: fuzzed actions, faults, a long run, and the jitter of commands."""

from __future__ import annotations

from efn_ros.report import tables
from efn_ros.report.blocks._common import Results, source


def fuzz_block(results: Results) -> str:
    """Return how many commands violated a limit while the bridge received fuzzed actions."""
    sent, became, topic = results["sent"], results["became"], results["topic"]
    broken = sum(results["broken"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(sent.items()))
    text = (
        f"Of {results['commands']} commands that the bridge sent while it received {results['n']} chunks ({kinds}), "
        "the robot lagged, was pushed, stopped publishing and froze, and an operator stopped, reset and handed over, "
        f"{broken} were outside a limit. {became['actions actions']} chunks were followed. Its process, which received "
        f"{topic['n']} more beside that of a simulated robot, published {topic['commands']} commands in "
        f"{topic['seconds'] / 60:.0f} minutes, of which {sum(topic['broken'].values())} were."
    )
    return f"{text} {source(results, results['n'] + topic['n'])}"


def faults_block(results: Results) -> str:
    """Return the reaction of the bridge to each fault."""
    header = ["fault", "reaction", "after, ms", "hold error, rad", "reason", "to resume"]
    rows = [
        [
            fault["fault"],
            fault["reaction"].replace("->", "-&gt;"),
            "-" if fault["after_s"] is None else tables.milliseconds(fault["after_s"]),
            "-" if fault["hold_error_rad"] is None else f"{fault['hold_error_rad']:.4f}",
            fault["reason"],
            fault["then"],
        ]
        for fault in results["faults"]
    ]
    moved = max((fault["moved_rad"] for fault in results["faults"] if fault["moved_rad"] is not None), default=0.0)
    text = (
        f"Of {results['commands']} commands, {sum(results['broken'].values())} were outside a limit. Where the arm "
        f"was at rest in the end, no joint moved by more than {moved:.4f} rad, with measurement noise of 0.0005 rad."
    )
    return f"{tables.markdown(header, rows)}\n\n{text} {source(results, len(rows))}"


def soak_block(results: Results) -> str:
    """Return the memory usage of each process over a long run."""

    def megabytes(size: float) -> str:
        return f"{size / 1e6:.1f}"

    rows = [[node, *(megabytes(m[at]) for at in ("first", "last", "drift"))] for node, m in results["memory"].items()]
    holds = ", ".join(f"{reason}: {count}" for reason, count in results["holds"].items()) or "none"
    text = (
        f"{results['episodes']} episodes in {results['seconds'] / 60:.0f} minutes, {results['saved']} saved; "
        f"holds within them: {holds}; the largest gap between two of {results['commands']} commands: "
        f"{results['largest_gap_s'] * 1e3:.1f} ms."
    )
    header = ["process", "after a minute, MB", "at the end", "drift, MB/min"]
    return f"{tables.markdown(header, rows)}\n\n{text} {source(results, results['episodes'])}"


def jitter_block(results: Results) -> str:
    """Return the distribution of the time between two commands."""
    header = ["machine", "scheduling", "median, ms", "p99", "p99.9", "largest", "n"]
    shares = ("p50_s", "p99_s", "p999_s", "max_s")
    rows = [
        [name, run["scheduling"], *(tables.milliseconds(run[share]) for share in shares), run["n"]]
        for name, run in results["runs"].items()
    ]
    return f"{tables.markdown(header, rows)}\n\n{source(results, sum(r['n'] for r in results['runs'].values()))}"
