"""What reinforcement learning adds to the supervised network in simulation, by reward and similarity (Table 3).

Run as `./efn shell python bench/rewards.py`. Prints a table, writes results/rewards.json. All runs begin with the
checkpoint of the package and are measured in the same scenes of the same deployments, in which none of them is trained.
A second call goes on in the same directories. The figures of one run are of few scenes: a difference of some points is
within the noise.
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    deployments, scenes = configs[0].measured, configs[0].measured * configs[0].measured_episodes
    result = {**provenance.here(), "n": scenes, "deployments": deployments, "runs": runs}
    print(rewards_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def run(config: FinetuneConfig) -> dict:
    """Fine-tune, and return the success that was measured first and last."""
    finetune(config)
    states = Path(config.directory).glob("state_*")
    state = max(states, key=lambda path: int(path.name.removeprefix("state_")))
    facts = read_state(state / "at.safetensors")[1]
    measured = [success for _, success in sorted(facts["successes"].items(), key=lambda item: int(item[0]))]
    counts = {name: facts[name] for name in ("episodes", "decisions")}
    settings = {"reward": config.reward, "similarity": config.similarity}
    return {**settings, **counts, "supervised": measured[0], "after": measured[-1]}


if __name__ == "__main__":
    main()
