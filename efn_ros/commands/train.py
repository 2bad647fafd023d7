# SPDX-License-Identifier: MIT
"""Train the Experience Feedback Network: in simulated deployments, or from a robot's bank."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efn_ros.commands._options import add_graph_options, add_task_option, given, select_tasks
from efn_ros.commands._renamed import add_renamed
from efn_ros.worlds.deployment import SAMPLED

if TYPE_CHECKING:
    from efn_ros.training.config import TrainConfig

QUICK: dict[str, Any] = {"deployments": (40, 15), "updates": (1500, 4000)}
COLLECTION = ("kinds", "other_cameras", "extra_cameras")
# Options of training in simulated deployments alone, without defaults of their own.
SIMULATED = (*COLLECTION, "deployments", "tasks", "processes", "quick", "install")
# Options of version 0.1 that are of an experiment now.
SAC = ("minutes", "episodes", "reward", "similarity")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of training in simulated deployments."""
    parser.add_argument("--directory", type=Path, default=Path("efn_training"), help="a second run continues in it")
    add_graph_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of every random draw")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--size", help="of the network: small (the default) or paper")
    parser.add_argument("--updates", type=int, nargs="+", help="one number a round; with --bank one in all")
    parser.add_argument("--no-memory", action="store_true", help="a network without recall, as a baseline")
    add_renamed(parser, "--memoryless", "--no-memory", nargs=0)
    group = parser.add_argument_group("in simulated deployments")
    group.add_argument("--deployments", type=int, nargs="+", help="to collect samples in, one number a round")
    group.add_argument("--kinds", nargs="+", choices=SAMPLED, help="of shifts to draw; default: all")
    add_task_option(group)
    group.add_argument("--other-cameras", type=int, help="deployments that also observe each motion; default 2")
    group.add_argument("--extra-cameras", type=int, help="cameras that also observe each decision; default 4")
    add_renamed(parser, "--views", "--other-cameras", type=int)
    add_renamed(parser, "--glimpses", "--extra-cameras", type=int)
    group.add_argument("--processes", type=int, help="that collect; default 2")
    group.add_argument("--quick", action="store_true", help="fewer of both: less than an hour on two cores")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_training_arguments(parser)
    parser.add_argument("--bank", type=Path, metavar="DIRECTORY", help="train on the successes of this bank alone")
    parser.add_argument("--install", action="store_true", help="copy the checkpoint into the package, with its card")
    for moved in ("finetune", "space", *SAC):
        parser.add_argument(f"--{moved}", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run, or continue, a training."""
    if args.finetune:
        raise SystemExit(f"--finetune is an experiment now: ./efn experiment sac {args.finetune} ...")
    if moved := given(args, *SAC):
        raise SystemExit(f"--{next(iter(moved))} is of an experiment now: ./efn experiment sac CHECKPOINT ...")
    if args.space == "latent":
        raise SystemExit("--space latent is an experiment now: ./efn experiment latent_residual ...")
    if args.space not in (None, "action"):
        raise SystemExit(f"--space {args.space} is unknown: a network trained here corrects actions; leave it out")
    try:
        checkpoint = _from_bank(args) if args.bank else _simulated(args)
    except ValueError as error:
        raise SystemExit(f"efn train: {error}") from error
    print(f"\ncheckpoint {checkpoint}")
    return 0


def training_config(args: argparse.Namespace) -> TrainConfig:
    """Return the settings of training in simulated deployments from `add_training_arguments`.

    Raises:
        ValueError: They do not fit each other.
        SystemExit: A task is unknown.
    """
    from efn_ros.runtime.graph import Graph
    from efn_ros.training.config import CollectionConfig, TrainConfig

    graph = Graph.load(args.graph, args.params_file)
    collection = CollectionConfig(
        seed=0,
        graph=args.graph,
        overlays=tuple(args.params_file),
        tasks=tuple(select_tasks(graph.world, args.tasks)),
        bound=tuple(float(b) for b in graph.parameters("efn_corrector")["limits.residual"]),
        **given(args, *COLLECTION),
    )
    settings = given(args, "size", "seed", "threads", "processes")
    settings |= (QUICK if args.quick else {}) | given(args, "deployments", "updates")
    config = TrainConfig(str(args.directory), use_memory=not args.no_memory, collection=collection, **settings)
    if len(config.deployments) != len(config.updates):
        raise ValueError(f"--deployments names {len(config.deployments)} rounds, --updates {len(config.updates)}")
    return config


def _simulated(args: argparse.Namespace) -> Path:
    from efn_ros.report.efn_card import install
    from efn_ros.training.supervised import train

    checkpoint = train(training_config(args))
    return install(checkpoint) if args.install else checkpoint


def _from_bank(args: argparse.Namespace) -> Path:
    from efn_ros.training.from_bank import FromBankConfig, train_from_bank

    if other := given(args, *SIMULATED):
        option = next(iter(other)).replace("_", "-")
        raise ValueError(f"--{option} is of training in simulated deployments; leave it out with --bank")
    if args.updates and len(args.updates) > 1:
        raise ValueError(f"--updates names {len(args.updates)} rounds; with --bank there is one")
    settings = given(args, "graph", "seed", "threads", "size") | ({"updates": args.updates[0]} if args.updates else {})
    overlays, use_memory = tuple(args.params_file), not args.no_memory
    return train_from_bank(
        FromBankConfig(str(args.directory), str(args.bank), overlays=overlays, use_memory=use_memory, **settings)
    )
