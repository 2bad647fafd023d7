# SPDX-License-Identifier: MIT
"""Fine-tune a supervised EFN by reinforcement learning in simulated deployments."""

from __future__ import annotations

import argparse
from pathlib import Path

MINUTES = 50  # without the start of the processes and the last validation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="the supervised EFN, a directory of ./efn train")
    parser.add_argument("--directory", type=Path, default=Path("efn_finetuning"), help="a second run continues in it")
    parser.add_argument("--graph", default="metaworld_sim", help="which config/graphs/<graph>.yaml")
    parser.add_argument("--params-file", action="append", default=[], help="parameters laid over the graph's own")
    parser.add_argument("--minutes", type=float, help=f"default {MINUTES}, without --episodes")
    parser.add_argument("--episodes", type=int, help="in place of minutes; such a run is repeatable")
    parser.add_argument("--reward", help="beside success: sparse (a potential, the default), semantic or anti_idling")
    parser.add_argument("--similarity", help="of those rewards: fused (the default), key or sinkhorn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="that run episodes")
    parser.add_argument("--threads", type=int, default=1, help="of learning")


def run(args: argparse.Namespace) -> int:
    """Run, or continue, a run."""
    from efn_ros.experiments.sac.config import FinetuneConfig
    from efn_ros.experiments.sac.learner import finetune

    names = ("graph", "minutes", "episodes", "reward", "similarity", "seed", "processes", "threads")
    settings = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.episodes is None:
        settings.setdefault("minutes", MINUTES)
    try:
        config = FinetuneConfig(str(args.directory), str(args.checkpoint), overlays=tuple(args.params_file), **settings)
        print(f"\ncheckpoint {finetune(config)}")
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"efn experiment sac: {error}") from error
    return 0
