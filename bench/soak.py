# SPDX-License-Identifier: MIT
"""Ten minutes of the AgiBot G1's dry run: whether memory grows, and whether the bridge ever holds for want of actions.

Run as `./efn shell python bench/soak.py`; eleven minutes. The graph runs as it is shipped, one saved episode after
another. Resident memory is that of each process, every second; drift is the slope of a line through the second half.
A hold within an episode, once the bridge tracks, has no cause but lateness. Prints a table, writes results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from dry_run import TASK, DryRun
from efn_ros.msg import EpisodeState
from efn_ros.srv import EndEpisode
from tqdm import tqdm

from efn_ros.report import provenance
from efn_ros.report.blocks.robot import soak_block

RESULTS = Path(__file__).parent / "results" / "soak.json"
EPISODE_S, PERIOD_S = 30.0, 1.0


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rollouts", type=int, default=0, help="budget of the bank; 0: none, it grows")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    budget = {"retention.strategy": "recency", "retention.rollouts": args.rollouts}
    with tempfile.TemporaryDirectory() as directory, DryRun(Path(directory), bank_writer=budget) as run:
        result = {**provenance.here(), **soak(run, args.seconds)}
    print(soak_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def soak(run: DryRun, seconds: float) -> dict:
    """Run episodes for so long; count holds and measure memory."""
    processes = {name: run.bringup.process(name).pid for name in run.graph.names}
    resident: dict[str, list[int]] = {name: [] for name in processes}
    holds, episodes, saved = Counter(), 0, 0
    began = time.monotonic()
    with tqdm(total=round(seconds), unit="s") as bar:
        while time.monotonic() - began < seconds:
            run.client.start_episode(TASK, TASK, episodes)
            run.wait_state("tracking")
            first, end = len(run.states), time.monotonic() + EPISODE_S
            while time.monotonic() < end:
                run.spin(PERIOD_S)
                bar.update()
                for name, pid in processes.items():
                    resident[name].append(resident_bytes(pid))
            holds.update(reason for _, state, reason in run.states[first:] if state != "tracking")
            run.call(EndEpisode, "end_episode", outcome=EpisodeState.OUTCOME_SUCCESS)
            saved += run.wait_saved()
            episodes += 1
    gaps = np.diff([at for at, _ in run.commands])
    return {
        "seconds": seconds,
        "episodes": episodes,
        "saved": saved,
        "holds": dict(holds),
        "commands": len(run.commands),
        "largest_gap_s": float(gaps.max()),
        "memory": {name: drift(sizes) for name, sizes in resident.items()},
    }


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def drift(sizes: list[int]) -> dict[str, float]:
    """Return bytes after a minute and at the end, and bytes a minute over the second half."""
    minute = round(60 / PERIOD_S)
    late = np.array(sizes[len(sizes) // 2 :], np.float64)
    slope = np.polyfit(np.arange(len(late)) / minute, late, 1)[0] if len(late) > 1 else 0.0
    return {"first": sizes[min(minute, len(sizes) - 1)], "last": sizes[-1], "drift": float(slope)}


if __name__ == "__main__":
    main()
