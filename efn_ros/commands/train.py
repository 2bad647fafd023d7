"""train the Experience Feedback Network on lessons from many simulated deployments"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, default=Path("efn_training"), help="a second run goes on in it")
    parser.add_argument("--size", default="small", help="of the network: small or paper")
    parser.add_argument("--deployments", type=int, nargs="+", help="that teach, one number a round")
    parser.add_argument("--updates", type=int, nargs="+", help="one number a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="that live through deployments")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--install", action="store_true", help="put the checkpoint into the package, with its card")
    parser.add_argument("--memoryless", action="store_true", help="a network that cannot recall, to compare with")


def run(args: argparse.Namespace) -> int:
    from efn_ros.efn.card import install
    from efn_ros.efn.train import TrainConfig, train

    rounds = {name: tuple(getattr(args, name)) for name in ("deployments", "updates") if getattr(args, name)}
    config = TrainConfig(
        str(args.directory),
        args.size,
        **rounds,
        seed=args.seed,
        processes=args.processes,
        threads=args.threads,
        remembers=not args.memoryless,
    )
    if len(config.deployments) != len(config.updates):
        raise SystemExit(f"--deployments names {len(config.deployments)} rounds, --updates {len(config.updates)}")
    checkpoint = train(config)
    if args.install:
        checkpoint = install(checkpoint)
    print(f"\ncheckpoint {checkpoint}")
    return 0
