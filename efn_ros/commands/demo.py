# SPDX-License-Identifier: MIT
"""Run the closed loop on simulated tasks, with and without memory, and report both."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import efn_ros
from efn_ros.commands._renamed import add_renamed

TASKS = ("push", "drawer-open", "window-close", "button-press-topdown")
SEED_BANKS = Path(efn_ros.__file__).parent / "bank" / "seed"  # by deployment, made by ./efn seed-bank
BANK_SCENE = 1000  # the first of those that fill the bank
MEASURED = """# Episodes are measured here, and what is measured must not explore.
/efn/efn_corrector:
  ros__parameters:
    exploration: {mode: "off"}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="tasks of Meta-World")
    parser.add_argument("--episodes", type=int, default=3, help="scenes a task, each with and without memory")
    parser.add_argument(
        "--bank-episodes",
        type=int,
        help="episodes a task of the base alone that fill the bank first; default: 4, or none where the package has a "
        "bank of the deployment",
    )
    add_renamed(parser, "--remembered", "--bank-episodes", type=int)
    parser.add_argument("--deployment", default="actuation", help="which config/deployments/<name>.yaml, or 'none'")
    parser.add_argument("--params-file", type=Path, action="append", default=[], help="laid over the graph's own")
    parser.add_argument("--output", type=Path, default=Path("efn_demo"), help="directory of the results")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    # Here, so that `./efn --help` waits for nothing.
    from efn_ros.bank import BankReader
    from efn_ros.report import figures, tables, video
    from efn_ros.report.latency import STAGES, summary
    from efn_ros.resources import config_directory
    from efn_ros.ros import conversions, discovery
    from efn_ros.ros.bringup import Bringup
    from efn_ros.ros.client import Client
    from efn_ros.ros.latency import stages
    from efn_ros.runtime.graph import Graph
    from efn_ros.worlds.metaworld import TASKS as INSTRUCTIONS

    discovery.configure()
    unknown = set(args.tasks) - set(INSTRUCTIONS)
    if unknown:
        raise SystemExit(f"unknown task {', '.join(sorted(unknown))}; there are {', '.join(INSTRUCTIONS)}")
    output = args.output.resolve() / time.strftime("%Y%m%d-%H%M%S")
    overlays = [config_directory() / "deployments" / f"{args.deployment}.yaml"] if args.deployment != "none" else []
    output.mkdir(parents=True)
    (output / "parameters.yaml").write_text(MEASURED)
    overlays += [output / "parameters.yaml", *args.params_file]
    bank, seeds = output / "bank", SEED_BANKS / args.deployment
    filling = 4 if args.bank_episodes is None else args.bank_episodes
    if args.bank_episodes is None and seeds.is_dir():
        shutil.copytree(seeds, bank)
        filling = 0
    held = len(BankReader(bank).rollouts())
    graph = Graph.load("metaworld_sim", overlays, bank=str(bank))
    results: dict[str, dict[str, list]] = {task: {"base": [], "memory": []} for task in args.tasks}
    corrected = []
    filmed = []
    total = len(args.tasks) * (filling + 2 * args.episodes)
    print(f"starting {len(graph.nodes)} nodes; what they print goes to {output / 'log'}")
    print(f"the bank holds {held} rollouts of the base alone; {filling} more a task come first")
    with (
        Bringup(graph, output=output / "log") as bringup,
        Client(observations=True) as client,
        tqdm(total=total, unit="episode", mininterval=0.5) as progress,
    ):
        client.wait_ready(graph.names, watch=bringup.watch)

        def episode(task: str, seed: int, *, correct: bool, record: bool, what: str):
            progress.set_description(f"{task}: {what}")
            done = client.run_episode(
                task, INSTRUCTIONS[task], seed, correct=correct, record=record, watch=bringup.watch
            )
            progress.update()
            return done

        for task in args.tasks:
            for seed in range(filling):
                episode(task, args.seed + BANK_SCENE + seed, correct=False, record=True, what="filling the bank")
            for seed in range(args.seed, args.seed + args.episodes):
                results[task]["base"].append(episode(task, seed, correct=False, record=False, what="base alone"))
                done = episode(task, seed, correct=True, record=True, what="base + memory")
                results[task]["memory"].append(done)
                corrected += done.actions
            filmed.append(results[task]["memory"][-1])

    def share(task: str, condition: str) -> float:
        return float(np.mean([record.success for record in results[task][condition]]))

    def steps(task: str, condition: str) -> str:
        lengths = [record.state.length for record in results[task][condition] if record.success]
        return f"{np.mean(lengths):.0f}" if lengths else "-"

    conditions = ("base", "memory")
    rows = [
        [task, *(tables.percent(share(task, c)) for c in conditions), *(steps(task, c) for c in conditions)]
        for task in args.tasks
    ]
    shares = {c: [share(task, c) for task in args.tasks] for c in conditions}
    rows.append(["mean", *(tables.percent(float(np.mean(shares[c]))) for c in conditions), "", ""])
    print(f"\nDeployment: {args.deployment}; {args.episodes} scenes a task, the same for both\n")
    print(tables.markdown(["task", "base", "base + memory", "steps base", "steps base + memory"], rows))
    times = stages(corrected)
    rows = [
        [f"{stage}: {STAGES[stage]}", *(tables.milliseconds(values[q]) for q in ("p50_s", "p99_s"))]
        for stage, values in summary(times).items()
    ]
    print("\nLatency, ms\n")
    print(tables.markdown(["stage", "median", "p99"], rows))

    figure, film = output / "demo.png", output / "demo.mp4"
    figures.demo_figure(figure, args.tasks, shares["base"], shares["memory"], times)
    reader = BankReader(bank)
    camera = graph.parameters("camera_ingest")["cameras"][0]
    frames = []
    for record in filmed:
        observations = [conversions.observation_from_msg(m) for m in record.observations]
        actions = [conversions.correction_from_msg(m) for m in record.actions]
        frames += video.film(observations, actions, lambda r, s: reader.image(r, s, camera), ("x", "y", "z", "gripper"))
    video.write(film, frames, rate_hz=8.0)
    print(f"\nfigure  {figure}\nvideo   {film}\nbank    {bank}\nlog     {output / 'log'}")
    return 0
