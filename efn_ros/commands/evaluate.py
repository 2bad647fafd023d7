"""base alone against base + memory over many seeded episodes, as trained and in deployments"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

DEPLOYMENTS = ("as trained", "actuation", "mounting", "camera")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", default="libero_sim", help="which config/<robot>.yaml")
    parser.add_argument("--tasks", nargs="+", help="default: all of the simulator's")
    parser.add_argument(
        "--deployments", nargs="+", default=list(DEPLOYMENTS), help="'as trained' or config/deployments/<name>"
    )
    parser.add_argument("--episodes", type=int, default=20, help="scenes a task and deployment, each met twice")
    parser.add_argument("--remembered", type=int, default=10, help="base episodes that fill the memory before")
    parser.add_argument("--params-file", action="append", default=[], help="parameters laid over the robot's own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, default=Path("efn_evaluation"), help="directory; a second run goes on in it"
    )
    parser.add_argument("--results", type=Path, help="also write the comparison to this JSON file")


def run(args: argparse.Namespace) -> int:
    from efn_ros.evaluation import Job, compare, evaluate
    from efn_ros.graph import Graph
    from efn_ros.report import provenance, tables
    from efn_ros.worlds import world_tasks

    graph = Graph.load(args.robot, args.params_file)
    bridge = graph.parameters("libero_bridge")
    tasks = args.tasks or list(world_tasks(bridge["world"], bridge["libero_assets"]))
    jobs = [
        Job(args.robot, deployment, task, args.episodes, args.remembered, tuple(args.params_file))
        for deployment in args.deployments
        for task in tasks
    ]
    began = time.monotonic()
    episodes = evaluate(jobs, args.output, processes=args.processes)
    comparisons = [compare(episodes, d, task) for d in args.deployments for task in [*tasks, "all"]]
    print(comparison_table(comparisons, tables))
    if args.results:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        report = {
            **provenance.here(),
            "minutes": (time.monotonic() - began) / 60,
            "episodes_a_task": args.episodes,
            "remembered": args.remembered,
            "comparisons": [asdict(c) for c in comparisons],
            "episodes": [asdict(e) for e in episodes],
        }
        args.results.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nresults  {args.results}")
    print(f"\nepisodes {args.output / 'episodes.jsonl'}")
    return 0


def comparison_table(comparisons, tables) -> str:
    header = [
        "deployment",
        "task",
        "n",
        "base",
        "base + memory",
        "difference, 95 %",
        "fixed / broke",
        "steps",
        "steps + memory",
    ]
    rows = [
        [
            c.deployment,
            c.task,
            c.pairs,
            tables.percent(c.base),
            tables.percent(c.memory),
            f"{100 * c.low:+.0f} .. {100 * c.high:+.0f}",
            f"{c.fixed} / {c.broke}",
            f"{c.base_steps:.0f}",
            f"{c.memory_steps:.0f}",
        ]
        for c in comparisons
    ]
    return tables.markdown(header, rows)
