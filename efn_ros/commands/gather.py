"""let a simulated robot work for a while and remember it: rollouts into a bank, probing if asked"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

FIRST_SCENE = 1_000_000  # scenes that no policy was trained on, no EFN taught in and no evaluation meets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bank", type=Path, help="directory; a second call goes on in it")
    parser.add_argument("--rollouts", type=int, default=100, help="that the bank shall hold, over the tasks in turn")
    parser.add_argument("--robot", default="libero_sim", help="which config/<robot>.yaml")
    parser.add_argument("--params-file", action="append", default=[], help="parameters laid over the robot's own")
    parser.add_argument("--tasks", nargs="+", help="names or patterns; default: all of the simulator's")
    parser.add_argument("--first-scene", type=int, default=FIRST_SCENE, help="seed of the first rollout's scene")
    parser.add_argument("--base", action="store_true", help="the base alone, without correction")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from efn_ros.bank import BankReader
    from efn_ros.commands._tasks import chosen
    from efn_ros.runtime.factory import make_agent, make_simulation
    from efn_ros.runtime.graph import Graph

    graph = Graph.load(args.robot, args.params_file)
    bridge = graph.parameters("libero_bridge")
    tasks = chosen(bridge, args.tasks)
    there, succeeded = len(BankReader(args.bank).rollouts()), 0
    with closing(make_simulation(bridge)) as world, closing(make_agent(graph, args.bank)) as agent:
        missing = range(there, args.rollouts)
        for i in (progress := tqdm(missing, total=args.rollouts, initial=there, unit="rollout")):
            task, scene = tasks[i % len(tasks)], args.first_scene + i
            told = {"episode_id": f"gathered-{scene}", "execute_steps": bridge["execute_steps"]}
            succeeded += agent.run(world, task, scene, correct=not args.base, **told).success
            progress.set_postfix(success=f"{succeeded / (i - there + 1):.0%}")
    print(f"bank {args.bank}: {max(there, args.rollouts)} rollouts; what they hold: ./efn bank stats {args.bank}")
    return 0
