# SPDX-License-Identifier: MIT
"""What reinforcement learning adds to the supervised network in simulation, by reward and similarity (Table 3).

Run as `./efn shell python bench/rewards.py`. Prints a table, writes results/rewards.json. All runs begin with the
checkpoint of the package and are validated in the same scenes of the same deployments, in which none of them trains.
A second call continues in the same directories. A run is validated in few scenes: a difference of some points is within
the noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efn_ros.efn.config import PACKAGED
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.learner import finetune
from efn_ros.report import provenance
from efn_ros.report.blocks.learning import rewards_block
from efn_ros.training.state import read_state

RESULTS = Path(__file__).parent / "results" / "rewards.json"
EPISODES = 320
RUNS = (  # reward, similarity; the first is the paper's own form
    ("anti_idling", "sinkhorn"),
    ("semantic", "sinkhorn"),
    ("sparse", "fused"),
)


def main() -> None:
    """Run all and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("efn_rewards"), help="of the runs")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    configs = [
        FinetuneConfig(
            str(args.directory / f"{reward}_{similarity}"),
            str(PACKAGED / "metaworld"),
            episodes=args.episodes,
            processes=args.processes,
            reward=reward,
            similarity=similarity,
        )
        for reward, similarity in RUNS
    ]
    runs = [run(config) for config in configs]
    deployments = configs[0].validation_deployments
    scenes = deployments * configs[0].validation_episodes
    result = {**provenance.here(), "n": scenes, "deployments": deployments, "runs": runs}
    print(rewards_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def run(config: FinetuneConfig) -> dict:
    """Fine-tune, and return the success of the first and the last validation."""
    finetune(config)
    states = Path(config.directory).glob("state_*")
    state = max(states, key=lambda path: int(path.name.removeprefix("state_")))
    facts = read_state(state / "at.safetensors")[1]
    successes = [success for _, success in sorted(facts["successes"].items(), key=lambda item: int(item[0]))]
    counts = {name: facts[name] for name in ("episodes", "decisions")}
    settings = {"reward": config.reward, "similarity": config.similarity}
    return {**settings, **counts, "supervised": successes[0], "after": successes[-1]}


if __name__ == "__main__":
    main()
