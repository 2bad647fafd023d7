"""train the Experience Feedback Network: in simulated deployments, or from a robot's bank"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efn_ros.commands._renamed import add_renamed
from efn_ros.worlds.deployment import SAMPLED

if TYPE_CHECKING:
    from efn_ros.training.config import TrainConfig

QUICK = {"deployments": (40, 15), "updates": (1500, 4000)}
# Options of one training alone; none of them has a default but the training's own.
SIMULATED = ("deployments", "kinds", "tasks", "other_cameras", "extra_cameras", "processes", "quick", "install")
COLLECTION = ("kinds", "tasks", "other_cameras", "extra_cameras")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of training in simulated deployments."""
    parser.add_argument("--directory", type=Path, default=Path("efn_training"), help="a second run continues in it")
    parser.add_argument("--graph", default="metaworld_sim", help="which config/graphs/<graph>.yaml")
    parser.add_argument("--params-file", action="append", default=[], help="parameters laid over the graph's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--size", help="of the network: small (the default) or paper")
    parser.add_argument("--updates", type=int, nargs="+", help="one number a round; one in all with --bank")
    parser.add_argument("--no-memory", action="store_true", help="a network that cannot recall, as a baseline")
    add_renamed(parser, "--robot", "--graph")
    add_renamed(parser, "--memoryless", "--no-memory", nargs=0)
    group = parser.add_argument_group("in simulated deployments")
    group.add_argument("--deployments", type=int, nargs="+", help="to collect samples in, one number a round")
    group.add_argument("--kinds", nargs="+", choices=SAMPLED, help="of shifts that are drawn; default: all")
    group.add_argument("--tasks", nargs="+", help="names or patterns; default: all of the simulator's")
    group.add_argument("--other-cameras", type=int, help="other deployments that see each motion; default 2")
    group.add_argument("--extra-cameras", type=int, help="cameras that also see each decision; default 4")
    add_renamed(parser, "--views", "--other-cameras", type=int)
    add_renamed(parser, "--glimpses", "--extra-cameras", type=int)
    group.add_argument("--processes", type=int, help="that collect; default 2")
    group.add_argument("--quick", action="store_true", help="fewer of both: less than an hour on two cores")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_training_arguments(parser)
    parser.add_argument("--bank", type=Path, metavar="DIRECTORY", help="train on the successes of this bank alone")
    parser.add_argument("--install", action="store_true", help="put the checkpoint into the package, with its card")
    for moved in ("--finetune", "--space"):
        parser.add_argument(moved, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run, or continue, a training."""
    if args.finetune:
        raise SystemExit(f"--finetune is an experiment now: ./efn experiment sac {args.finetune} ...")
    if args.space == "latent":
        raise SystemExit("--space latent is an experiment now: ./efn experiment latent_residual ...")
    try:
        checkpoint = _from_bank(args) if args.bank else _simulated(args)
    except ValueError as error:
        raise SystemExit(f"efn train: {error}") from error
    print(f"\ncheckpoint {checkpoint}")
    return 0


def training_config(args: argparse.Namespace) -> TrainConfig:
    """Return the settings of training in simulated deployments out of `add_training_arguments`.

    Raises:
        ValueError: They do not fit each other.
        SystemExit: A task is unknown.
    """
    from efn_ros.commands._tasks import select_tasks
    from efn_ros.runtime.graph import Graph
    from efn_ros.training.collection import CollectionConfig
    from efn_ros.training.config import TrainConfig

    graph = Graph.load(args.graph, args.params_file)
    given = _given(args, COLLECTION) | {"tasks": tuple(select_tasks(graph.world, args.tasks))}
    given |= {"kinds": tuple(given["kinds"])} if "kinds" in given else {}
    bound = tuple(float(b) for b in graph.parameters("efn_corrector")["limits.residual"])
    collection = CollectionConfig(seed=0, graph=args.graph, overlays=tuple(args.params_file), bound=bound, **given)
    rounds = {name: tuple(value) for name, value in _given(args, ("deployments", "updates")).items()}
    rounds = (QUICK if args.quick else {}) | rounds
    options = _given(args, ("size", "processes")) | {"seed": args.seed, "threads": args.threads}
    config = TrainConfig(str(args.directory), use_memory=not args.no_memory, collection=collection, **options, **rounds)
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

    if other := _given(args, SIMULATED):
        raise ValueError(f"--{next(iter(other)).replace('_', '-')} is of training in simulated deployments; drop it")
    if args.updates and len(args.updates) > 1:
        raise ValueError(f"--updates names {len(args.updates)} rounds; with --bank there is one")
    given = _given(args, ("size",)) | ({"updates": args.updates[0]} if args.updates else {})
    config = FromBankConfig(
        str(args.directory),
        str(args.bank),
        graph=args.graph,
        overlays=tuple(args.params_file),
        use_memory=not args.no_memory,
        seed=args.seed,
        threads=args.threads,
        **given,
    )
    return train_from_bank(config)


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """The options that were given."""
    values = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}
