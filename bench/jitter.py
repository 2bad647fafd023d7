"""How regular 100 commands a second are, in the dry run of the AgiBot G1: idle, with every core busy, and with what
Linux does for a process that must be on time.

Run as `./efn shell python bench/jitter.py`; five minutes. Intervals are those of the stamps with which the bridge sends
its commands. Prints a table, writes results/jitter.json.
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

from efn_ros.report import provenance, tables

RESULTS = Path(__file__).parent / "results" / "jitter.json"
WAYS = {
    "idle": (False, {"realtime.priority": 0, "realtime.lock_memory": False}),
    "busy": (True, {"realtime.priority": 0, "realtime.lock_memory": False}),
    "busy, SCHED_FIFO": (True, {"realtime.priority": 50, "realtime.lock_memory": False}),
    "busy, SCHED_FIFO, memory locked": (True, {"realtime.priority": 50, "realtime.lock_memory": True}),
}
SHARES = {"p50_s": 50, "p99_s": 99, "p999_s": 99.9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each way")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    ways = {name: measure(busy, parameters, args.seconds) for name, (busy, parameters) in WAYS.items()}
    columns = [*SHARES, "max_s"]
    rows = [[n, w["scheduling"], *(tables.milliseconds(w[c]) for c in columns), w["n"]] for n, w in ways.items()]
    print(tables.markdown(["way", "scheduling", "median, ms", "p99", "p99.9", "largest", "n"], rows))
    result = {**provenance.here(), "seconds": args.seconds, "ways": ways}
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def measure(busy: bool, parameters: dict, seconds: float) -> dict:
    """Intervals between commands while the robot sways."""
    context = multiprocessing.get_context("spawn")
    load = [context.Process(target=burn, daemon=True) for _ in range(os.cpu_count() if busy else 0)]
    with tempfile.TemporaryDirectory() as directory, DryRun(Path(directory), **{BRIDGE: parameters}) as run:
        run.track()
        for process in load:
            process.start()
        began = len(run.commands)
        run.spin(seconds)
        facts = {v.key: v.value for v in run.client.statuses[f"{BRIDGE}: state"].values}
        for process in load:
            process.terminate()
    stamps = np.array([at for at, _ in run.commands[began:]])
    gaps = np.diff(stamps[len(stamps) // 20 :])
    found = {name: float(np.percentile(gaps, share)) for name, share in SHARES.items()}
    return found | {
        "max_s": float(gaps.max()),
        "n": len(gaps),
        "scheduling": f"{facts['scheduling']}, {facts['memory']}",
    }


def burn() -> None:
    while True:
        sum(range(10_000))


if __name__ == "__main__":
    main()
