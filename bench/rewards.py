"""What reinforcement learning adds to the taught network in simulation, by reward and likeness: Table 3's parts.

Run as `./efn shell python bench/rewards.py`. Prints a table, writes results/rewards.json. All runs begin with the
checkpoint of the package and are measured in the same scenes of the same deployments, which none of them learns in.
A second call goes on in the same directories. The figures of one run are few scenes: a gain or a loss of some points
is chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efn_ros.efn.config import PACKAGED
from efn_ros.experiments.sac import replay
from efn_ros.experiments.sac.finetune import FinetuneConfig, finetune
from efn_ros.report import provenance, results

RESULTS = Path(__file__).parent / "results" / "rewards.json"
EPISODES = 320
RUNS = (  # reward, similarity; the paper's own form is the first one
    ("anti_idling", "sinkhorn"),
    ("semantic", "sinkhorn"),
    ("sparse", "fused"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("efn_rewards"), help="of the runs")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    runs = []
    for reward, similarity in RUNS:
        directory = args.directory / f"{reward}_{similarity}"
        config = FinetuneConfig(
            str(directory), str(PACKAGED / "metaworld"), episodes=args.episodes, processes=args.processes,
            reward=reward, similarity=similarity,
        )  # fmt: skip
        finetune(config)
        state = max(directory.glob("state_*"), key=lambda path: int(path.name.removeprefix("state_")))
        at = replay.read(state / "at.safetensors")[1]
        measured = [success for _, success in sorted(at["successes"].items(), key=lambda item: int(item[0]))]
        told = {"reward": reward, "similarity": similarity, "episodes": at["episodes"], "decisions": at["decisions"]}
        runs.append({**told, "taught": measured[0], "after": measured[-1]})
        scenes = config.measured * config.measured_episodes
    report = {**provenance.here(), "n": scenes, "deployments": config.measured, "runs": runs}
    print(results.rewards_block(report))
    args.results.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nresults  {args.results}")


if __name__ == "__main__":
    main()
