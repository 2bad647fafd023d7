# SPDX-License-Identifier: MIT
"""Train PocketVLA from a simulator's scripted experts, evaluate it on held-out scenes and write its card."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from efn_ros.commands._options import add_task_option, given, select_tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--directory", type=Path, default=Path("efn_policy"), help="a second run continues in it")
    parser.add_argument("--world", choices=("metaworld", "libero"), default="metaworld")
    add_task_option(parser)
    parser.add_argument("--episodes", type=int, nargs="+", help="episodes for each task, one number a round")
    parser.add_argument("--updates", type=int, nargs="+", help="updates, one number a round")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw")
    parser.add_argument("--processes", type=int, default=2, help="that collect demonstrations and evaluate")
    parser.add_argument("--threads", type=int, default=2, help="of training")
    parser.add_argument("--test-episodes", type=int, default=20, help="held-out scenes of each task, for the card")
    parser.add_argument("--install", action="store_true", help="copy the checkpoint into the package")


def run(args: argparse.Namespace) -> int:
    """Run, or continue, a training."""
    from efn_ros.policies.pocket_vla.policy import PACKAGED
    from efn_ros.report.policy_card import write_card
    from efn_ros.training.pocket_vla import PocketVlaTrainConfig, train_pocket_vla

    settings = given(args, "world", "seed", "processes", "threads", "episodes", "updates")
    tasks = tuple(select_tasks({"world": args.world}, args.tasks))
    config = PocketVlaTrainConfig(str(args.directory), tasks=tasks, **settings)
    if len(config.episodes) != len(config.updates):
        raise SystemExit(f"--episodes names {len(config.episodes)} rounds, --updates {len(config.updates)}")
    checkpoint = train_pocket_vla(config)
    facts = json.loads((args.directory / "train.json").read_text())
    print(write_card(checkpoint, facts, args.test_episodes, args.directory / "test", args.processes))
    if args.install:
        checkpoint = Path(shutil.copytree(checkpoint, PACKAGED / config.world, dirs_exist_ok=True))
    print(f"\ncheckpoint {checkpoint}")
    return 0
