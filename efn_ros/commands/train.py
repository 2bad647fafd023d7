"""train the Experience Feedback Network: in simulated deployments, further by reinforcement, or from a robot's bank"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from efn_ros.worlds.deployment import SAMPLED

MINUTES = 50  # what is measured last and the start of the processes take some more
QUICK = {"deployments": (40, 15), "updates": (1500, 4000)}
LESSONS, FINETUNE, BANK = "simulated deployments", "--finetune CHECKPOINT", "--bank DIRECTORY"
# Which training an option is of, where it is not of all; none of them has a default but the training's own.
OF = {
    "size": (LESSONS, BANK),
    "space": (LESSONS,),
    "deployments": (LESSONS,),
    "updates": (LESSONS, BANK),
    "quick": (LESSONS,),
    "install": (LESSONS,),
    "memoryless": (LESSONS, BANK),
    "processes": (LESSONS, FINETUNE),
    "minutes": (FINETUNE,),
    "episodes": (FINETUNE,),
    "reward": (FINETUNE,),
    "similarity": (FINETUNE,),
    "params_file": (LESSONS, BANK),
    "kinds": (LESSONS,),
    "tasks": (LESSONS,),
    "views": (LESSONS,),
    "glimpses": (LESSONS,),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, default=Path("efn_training"), help="a second run goes on in it")
    parser.add_argument("--finetune", type=Path, metavar="CHECKPOINT", help="go on from it by reinforcement learning")
    parser.add_argument("--bank", type=Path, metavar="DIRECTORY", help="learn from the successes of this bank alone")
    parser.add_argument("--robot", default="libero_sim", help="which config/<robot>.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--processes", type=int, help="that live through deployments; 2 if not said")
    parser.add_argument("--size", help="of the network: small (if not said) or paper")
    parser.add_argument("--space", help="of what the network says: action (if not said) or latent tokens")
    parser.add_argument("--updates", type=int, nargs="+", help="one number a round; one in all with --bank")
    parser.add_argument("--params-file", action="append", help="parameters laid over the robot's own")
    parser.add_argument("--memoryless", action="store_true", help="a network that cannot recall, to compare with")
    lessons = parser.add_argument_group(LESSONS)
    lessons.add_argument("--deployments", type=int, nargs="+", help="that teach, one number a round")
    lessons.add_argument("--kinds", nargs="+", choices=SAMPLED, help="of shifts that are drawn; default: all")
    lessons.add_argument(
        "--tasks", nargs="+", help="that are taught in, names or patterns; default: all of the simulator's"
    )
    lessons.add_argument("--views", type=int, help="in how many other deployments each motion is seen; 2 if not said")
    lessons.add_argument("--glimpses", type=int, help="through how many cameras each decision is seen; 4 if not said")
    lessons.add_argument("--quick", action="store_true", help="fewer of both: less than an hour on two cores")
    lessons.add_argument("--install", action="store_true", help="put the checkpoint into the package, with its card")
    finetune = parser.add_argument_group(FINETUNE)
    finetune.add_argument("--minutes", type=float, help=f"{MINUTES} unless --episodes is given")
    finetune.add_argument("--episodes", type=int, help="in place of minutes, so that a run can be repeated exactly")
    finetune.add_argument("--reward", help="beside success: sparse (a potential, if not said), semantic or anti_idling")
    finetune.add_argument("--similarity", help="of those rewards: fused (if not said) or sinkhorn")


def run(args: argparse.Namespace) -> int:
    if args.finetune and args.bank:
        raise SystemExit("--finetune and --bank are two trainings; name one")
    kind = FINETUNE if args.finetune else BANK if args.bank else LESSONS
    given: dict[str, Any] = {
        name: value for name in OF if (value := getattr(args, name)) is not None and value is not False
    }
    for name in given:
        if kind not in OF[name]:
            word = f"--{name.replace('_', '-')}"
            raise SystemExit(f"{word} is of {' and '.join(OF[name])}; leave it out of a training by {kind}")
    common = {"robot": args.robot, "seed": args.seed, "threads": args.threads}
    train = {LESSONS: _lessons, FINETUNE: _finetune, BANK: _bank}[kind]
    print(f"\ncheckpoint {train(args, given, common)}")
    return 0


def _lessons(args: argparse.Namespace, given: dict[str, Any], common: dict[str, Any]) -> Path:
    from efn_ros.commands._tasks import chosen
    from efn_ros.report.efn_card import install
    from efn_ros.runtime.graph import Graph
    from efn_ros.training.collection import LessonConfig
    from efn_ros.training.config import TrainConfig
    from efn_ros.training.supervised import train

    if args.install and args.space not in (None, "action"):
        raise SystemExit("--install is of --space action; name a checkpoint of another in a parameter file")
    rounds = {name: tuple(given.pop(name)) for name in QUICK if name in given}
    rounds = (QUICK if given.pop("quick", False) else {}) | rounds
    installs, remembers = given.pop("install", False), not given.pop("memoryless", False)
    robot, overlays = common.pop("robot"), tuple(given.pop("params_file", ()))
    graph = Graph.load(robot, overlays)
    taught = {name: given.pop(name) for name in ("kinds", "tasks", "views", "glimpses") if name in given}
    taught |= {"tasks": tuple(chosen(graph.parameters("libero_bridge"), taught.get("tasks")))}
    taught |= {"kinds": tuple(taught["kinds"])} if "kinds" in taught else {}
    bound = tuple(float(b) for b in graph.parameters("efn_corrector")["limits.residual"])
    lessons = LessonConfig(seed=0, robot=robot, overlays=overlays, bound=bound, **taught)
    config = TrainConfig(str(args.directory), remembers=remembers, lessons=lessons, **given, **rounds, **common)
    if len(config.deployments) != len(config.updates):
        raise SystemExit(f"--deployments names {len(config.deployments)} rounds, --updates {len(config.updates)}")
    try:
        checkpoint = train(config)
    except ValueError as error:
        raise SystemExit(f"efn train: {error}") from error
    return install(checkpoint) if installs else checkpoint


def _finetune(args: argparse.Namespace, given: dict[str, Any], common: dict[str, Any]) -> Path:
    from efn_ros.experiments.sac.finetune import FinetuneConfig, finetune

    if "episodes" not in given:
        given.setdefault("minutes", MINUTES)
    return finetune(FinetuneConfig(str(args.directory), str(args.finetune), **given, **common))


def _bank(args: argparse.Namespace, given: dict[str, Any], common: dict[str, Any]) -> Path:
    from efn_ros.training.from_bank import HindsightConfig, teach

    updates = given.pop("updates", None)
    if updates and len(updates) > 1:
        raise SystemExit(f"--updates names {len(updates)} rounds; with --bank there is one")
    given |= {"updates": updates[0]} if updates else {}
    overlays, remembers = tuple(given.pop("params_file", ())), not given.pop("memoryless", False)
    config = HindsightConfig(
        str(args.directory), str(args.bank), overlays=overlays, remembers=remembers, **given, **common
    )
    try:
        return teach(config)
    except ValueError as error:
        raise SystemExit(f"efn train: {error}") from error
