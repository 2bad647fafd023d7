# SPDX-License-Identifier: MIT
"""Run a simulated robot and fill a bank with its rollouts, with exploration if the parameters enable it."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from efn_ros.commands._options import add_graph_options, add_task_option, select_tasks

FIRST_SCENE = 1_000_000  # neither training nor evaluation uses scenes from here on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bank", type=Path, help="directory; a second call continues in it")
    parser.add_argument("--rollouts", type=int, default=100, help="size of the bank, over the tasks in turn")
    add_graph_options(parser)
    add_task_option(parser)
    parser.add_argument("--first-scene", type=int, default=FIRST_SCENE, help="seed of the first rollout's scene")
    parser.add_argument("--base", action="store_true", help="run the base policy alone, without correction")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from tqdm import tqdm

    from efn_ros.bank import BankReader
    from efn_ros.runtime.factory import make_agent, make_simulation
    from efn_ros.runtime.graph import Graph

    graph = Graph.load(args.graph, args.params_file)
    tasks = select_tasks(graph.world, args.tasks)
    present, successes = len(BankReader(args.bank).rollouts()), 0
    steps = graph.world["execute_steps"]
    with closing(make_simulation(graph.world)) as world, closing(make_agent(graph, args.bank)) as agent:
        missing = range(present, args.rollouts)
        for i in (progress := tqdm(missing, total=args.rollouts, initial=present, unit="rollout")):
            task, scene = tasks[i % len(tasks)], args.first_scene + i
            result = agent.run(
                world, task, scene, episode_id=f"collected-{scene}", execute_steps=steps, correct=not args.base
            )
            successes += result.success
            progress.set_postfix(success=f"{successes / (i - present + 1):.0%}")
    print(f"bank {args.bank}: {max(present, args.rollouts)} rollouts; ./efn bank stats {args.bank} summarises them")
    return 0
