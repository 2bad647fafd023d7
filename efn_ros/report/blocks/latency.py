# SPDX-License-Identifier: MIT
"""Block of the latency of each stage of the loop."""

from __future__ import annotations

from efn_ros.report import tables
from efn_ros.report.blocks._common import Results, source
from efn_ros.report.latency import STAGES

NAMES = {**STAGES, "relay_hop": "plain relay: one hop", "relay_round_trip": "plain relay: round trip"}
COLUMNS = ("p50_s", "p95_s", "p99_s", "max_s")


def latency_block(results: Results) -> str:
    """Return percentiles of each stage, and of a plain relay for comparison."""
    rows = [
        [NAMES.get(stage, stage), *(tables.milliseconds(values[c]) for c in COLUMNS), values["n"]]
        for stage, values in results["stages"].items()
    ]
    table = tables.markdown(["latency, ms", "median", "p95", "p99", "max", "n"], rows)
    text = (
        f"{results['rate_hz']:g} images a second; {results['corrected_actions']} corrected actions, "
        f"{results['without_recall']} without recall. The policy takes no time here."
    )
    return f"{table}\n\n{text} {source(results, results['stages']['total']['n'])}"
