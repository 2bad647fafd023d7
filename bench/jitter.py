# SPDX-License-Identifier: MIT
"""How regular 100 commands a second are in the dry run of the AgiBot G1, idle and under load.

Run as `./efn shell python bench/jitter.py`; five minutes. With every core busy it is measured by itself and with what
Linux offers for real time. Intervals are those of the stamps of the bridge's commands. Prints a table, writes
results/jitter.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np
from dry_run import BRIDGE, DryRun

from efn_ros.report import provenance
from efn_ros.report.blocks.robot import jitter_block

RESULTS = Path(__file__).parent / "results" / "jitter.json"
RUNS = {  # name -> whether every core is busy, parameters of the bridge
    "idle": (False, {"realtime.priority": 0, "realtime.lock_memory": False}),
    "busy": (True, {"realtime.priority": 0, "realtime.lock_memory": False}),
    "busy, SCHED_FIFO": (True, {"realtime.priority": 50, "realtime.lock_memory": False}),
    "busy, SCHED_FIFO, memory locked": (True, {"realtime.priority": 50, "realtime.lock_memory": True}),
}
SHARES = {"p50_s": 50, "p99_s": 99, "p999_s": 99.9}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    runs = {name: measure(busy, parameters, args.seconds) for name, (busy, parameters) in RUNS.items()}
    result = {**provenance.here(), "seconds": args.seconds, "runs": runs}
    print(jitter_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def measure(busy: bool, parameters: dict, seconds: float) -> dict:
    """Return the distribution of the intervals between commands while the arms move."""
    context = multiprocessing.get_context("spawn")
    load = [context.Process(target=burn, daemon=True) for _ in range(os.cpu_count() if busy else 0)]
    with tempfile.TemporaryDirectory() as directory, DryRun(Path(directory), **{BRIDGE: parameters}) as run:
        run.resume_tracking()
        for process in load:
            process.start()
        first = len(run.commands)
        run.spin(seconds)
        facts = {v.key: v.value for v in run.client.statuses[f"{BRIDGE}: state"].values}
        for process in load:
            process.terminate()
    stamps = np.array([at for at, _ in run.commands[first:]])
    intervals = np.diff(stamps[len(stamps) // 20 :])
    return {
        **{name: float(np.percentile(intervals, share)) for name, share in SHARES.items()},
        "max_s": float(intervals.max()),
        "n": len(intervals),
        "scheduling": f"{facts['scheduling']}, {facts['memory']}",
    }


def burn() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


if __name__ == "__main__":
    main()
