"""train the Experience Feedback Network in many simulated deployments: on lessons, or further by reinforcement"""

from __future__ import annotations

import argparse
from pathlib import Path

MINUTES = 50  # what is measured last and the start of the processes take some more
SUPERVISED = {"size": "small", "deployments": None, "updates": None}
SUPERVISED |= dict.fromkeys(("quick", "install", "memoryless"), False)
QUICK = {"deployments": (40, 15), "updates": (1500, 4000)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, default=Path("efn_training"), help="a second run goes on in it")
    parser.add_argument("--size", default=SUPERVISED["size"], help="of the network: small or paper")
    parser.add_argument("--deployments", type=int, nargs="+", help="that teach, one number a round")
    parser.add_argument("--updates", type=int, nargs="+", help="one number a round")
    parser.add_argument("--quick", action="store_true", help="fewer of both: less than an hour on two cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="that live through deployments")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--install", action="store_true", help="put the checkpoint into the package, with its card")
    parser.add_argument("--finetune", type=Path, metavar="CHECKPOINT", help="go on from it by reinforcement learning")
    parser.add_argument("--minutes", type=float, help="of reinforcement learning; 50 unless --episodes is given")
    parser.add_argument("--episodes", type=int, help="of reinforcement learning, so that a run can be repeated exactly")
    parser.add_argument("--memoryless", action="store_true", help="a network that cannot recall, to compare with")


def run(args: argparse.Namespace) -> int:
    if args.finetune:
        return _finetune(args)
    if args.minutes is not None or args.episodes is not None:
        raise SystemExit("--minutes and --episodes are of --finetune CHECKPOINT; name one, or leave them out")
    from efn_ros.efn.card import install
    from efn_ros.efn.train import TrainConfig, train

    rounds = {name: tuple(getattr(args, name)) for name in QUICK if getattr(args, name)}
    if args.quick:
        rounds = QUICK | rounds
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


def _finetune(args: argparse.Namespace) -> int:
    from efn_ros.efn.finetune import FinetuneConfig, finetune

    for name, default in SUPERVISED.items():
        if getattr(args, name) != default:
            raise SystemExit(f"--{name} is of supervised training; leave it out with --finetune")
    length = {name: getattr(args, name) for name in ("episodes", "minutes") if getattr(args, name) is not None}
    config = FinetuneConfig(
        str(args.directory),
        str(args.finetune),
        **(length or {"minutes": MINUTES}),
        seed=args.seed,
        processes=args.processes,
        threads=args.threads,
    )
    print(f"\ncheckpoint {finetune(config)}")
    return 0
