"""Ten minutes of the AgiBot G1's dry run: does memory grow, and does it ever hold for want of actions?

Run as `./efn shell python bench/soak.py`; eleven minutes. The graph as it comes, one remembered episode after another.
Resident memory is that of each process, every second; its drift is the slope of a line through the second half. A hold
within an episode, once it tracks, has no cause but lateness. Prints a table, writes results/soak.json.
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

from efn_ros.report import provenance, tables

RESULTS = Path(__file__).parent / "results" / "soak.json"
EPISODE_S, PERIOD_S = 30.0, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rollouts", type=int, default=0, help="budget of the bank; 0: none, it grows")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    budget = {"retention.strategy": "recency", "retention.rollouts": args.rollouts}
    with tempfile.TemporaryDirectory() as directory, DryRun(Path(directory), bank_writer=budget) as run:
        told = soak(run, args.seconds)
    mb = lambda size: f"{size / 1e6:.1f}"  # noqa: E731
    columns = ["process", "after a minute, MB", "at the end", "drift, MB/min"]
    print(
        tables.markdown(
            columns, [[n, mb(m["first"]), mb(m["last"]), mb(m["drift"])] for n, m in told["memory"].items()]
        )
    )
    print(f"\n{told['episodes']} episodes, {told['saved']} remembered; holds within them: {told['holds'] or 'none'}")
    args.results.write_text(json.dumps({**provenance.here(), **told}, indent=1) + "\n")
    print(f"results  {args.results}")


def soak(run: DryRun, seconds: float) -> dict:
    nodes = [node.executable for node in run.graph.nodes]
    processes = {name: run.bringup.process(name).pid for name in nodes}
    resident: dict[str, list[int]] = {name: [] for name in nodes}
    holds, episodes, saved = Counter(), 0, 0
    began = time.monotonic()
    with tqdm(total=round(seconds), unit="s") as bar:
        while time.monotonic() - began < seconds:
            run.client.start_episode(TASK, TASK, episodes)
            run.until("tracking")
            said, ends = len(run.states), time.monotonic() + EPISODE_S
            while time.monotonic() < ends:
                run.spin(PERIOD_S)
                bar.update()
                for name, pid in processes.items():
                    resident[name].append(resident_bytes(pid))
            holds.update(reason for _, state, reason in run.states[said:] if state != "tracking")
            run.call(EndEpisode, "end_episode", outcome=EpisodeState.OUTCOME_SUCCESS)
            run.remembered()
            episodes, saved = episodes + 1, saved + run.client.episode.saved
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
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def drift(sizes: list[int]) -> dict[str, float]:
    """Bytes, and bytes a minute over the second half."""
    minute = round(60 / PERIOD_S)
    late = np.array(sizes[len(sizes) // 2 :], np.float64)
    slope = np.polyfit(np.arange(len(late)) / minute, late, 1)[0] if len(late) > 1 else 0.0
    return {"first": sizes[min(minute, len(sizes) - 1)], "last": sizes[-1], "drift": float(slope)}


if __name__ == "__main__":
    main()
