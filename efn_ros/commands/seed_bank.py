# SPDX-License-Identifier: MIT
"""Fill the packaged bank of a deployment with rollouts of the base policy alone."""

from __future__ import annotations

import argparse
import shutil
from contextlib import closing

QUALITY = 60  # of JPEG, low because the bank is part of the package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--deployment", default="actuation", help="name of a file in config/deployments")
    parser.add_argument("--rollouts", type=int, default=8, help="number of rollouts, over the demo's tasks in turn")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from tqdm import tqdm

    from efn_ros.bank.format.catalogue import LOCK
    from efn_ros.commands.demo import BANK_SCENE, SEED_BANKS, TASKS
    from efn_ros.resources import config_directory
    from efn_ros.runtime.agent import Agent
    from efn_ros.runtime.factory import make_corrector, make_inference, make_simulation, make_writer
    from efn_ros.runtime.graph import Graph

    target = SEED_BANKS / args.deployment
    shutil.rmtree(target, ignore_errors=True)
    graph = Graph.load("metaworld_sim", [config_directory() / "deployments" / f"{args.deployment}.yaml"])
    writing, steps = graph.parameters("bank_writer"), graph.world["execute_steps"]
    parts = (make_inference(graph.parameters("vla_policy")), make_corrector(graph.parameters("efn_corrector")))
    with (
        closing(make_simulation(graph.world)) as world,
        make_writer({**writing, "image_quality": QUALITY}, target) as writer,
    ):
        agent = Agent(*parts, writer=writer, robot=writing["robot"])
        for i in tqdm(range(args.rollouts), unit="rollout"):
            task, scene = TASKS[i % len(TASKS)], BANK_SCENE + i // len(TASKS)
            agent.run(world, task, scene, episode_id=f"seed-{i}", execute_steps=steps, correct=False)
    (target / LOCK).unlink()
    size = sum(path.stat().st_size for path in target.rglob("*"))
    print(f"bank {target}: {args.rollouts} rollouts, {size / 1e6:.1f} MB")
    return 0
