"""let a simulated robot work and fill a bank with its rollouts, exploring if asked"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from efn_ros.commands._renamed import add_renamed

FIRST_SCENE = 1_000_000  # scenes that neither training nor evaluation uses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bank", type=Path, help="directory; a second call continues in it")
    parser.add_argument("--rollouts", type=int, default=100, help="that the bank shall hold, over the tasks in turn")
    parser.add_argument("--graph", default="metaworld_sim", help="which config/graphs/<graph>.yaml")
    add_renamed(parser, "--robot", "--graph")
    parser.add_argument("--params-file", action="append", default=[], help="parameters laid over the graph's own")
    parser.add_argument("--tasks", nargs="+", help="names or patterns; default: all of the simulator's")
    parser.add_argument("--first-scene", type=int, default=FIRST_SCENE, help="seed of the first rollout's scene")
    parser.add_argument("--base", action="store_true", help="the base alone, without correction")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from tqdm import tqdm

    from efn_ros.bank import BankReader
    from efn_ros.commands._tasks import select_tasks
    from efn_ros.runtime.factory import make_agent, make_simulation
    from efn_ros.runtime.graph import Graph

    graph = Graph.load(args.graph, args.params_file)
    tasks = select_tasks(graph.world, args.tasks)
    held, successes = len(BankReader(args.bank).rollouts()), 0
    steps = graph.world["execute_steps"]
    with closing(make_simulation(graph.world)) as world, closing(make_agent(graph, args.bank)) as agent:
        missing = range(held, args.rollouts)
        for i in (progress := tqdm(missing, total=args.rollouts, initial=held, unit="rollout")):
            task, scene = tasks[i % len(tasks)], args.first_scene + i
            result = agent.run(
                world, task, scene, episode_id=f"collected-{scene}", execute_steps=steps, correct=not args.base
            )
            successes += result.success
            progress.set_postfix(success=f"{successes / (i - held + 1):.0%}")
    print(f"bank {args.bank}: {max(held, args.rollouts)} rollouts; what they hold: ./efn bank stats {args.bank}")
    return 0
