# SPDX-License-Identifier: MIT
"""Measure the gain from memory: base policy, memory of growing volume and controls, on the same held-out scenes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from efn_ros.commands._options import add_graph_options, add_task_option, select_tasks
from efn_ros.commands._renamed import add_renamed
from efn_ros.worlds.deployment import SAMPLED

DEPLOYMENTS, AS_TRAINED = "deployments", "as-trained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_graph_options(parser)
    parser.add_argument("--setting", choices=(DEPLOYMENTS, AS_TRAINED), default=DEPLOYMENTS)
    parser.add_argument("--first-seed", type=int, default=0, help="of the deployments, all below those of training")
    parser.add_argument("--deployments", type=int, default=30, help="number of deployments")
    add_task_option(parser)
    parser.add_argument("--kinds", nargs="+", choices=SAMPLED, default=list(SAMPLED), help="of shifts; default: all")
    parser.add_argument("--episodes", type=int, default=1, help="scenes of each task in each deployment")
    volumes = "rollouts of the bank; controls use the largest"
    parser.add_argument("--volumes", nargs="+", type=int, default=[1, 2, 5, 10], help=volumes)
    parser.add_argument("--no-memory", type=Path, help="checkpoint of an EFN trained without memory, as a control")
    add_renamed(parser, "--memoryless", "--no-memory", type=Path)
    ablation = "one more condition: parameters laid over all others"
    parser.add_argument("--ablation", action="append", default=[], metavar="NAME=FILE", help=ablation)
    work = "also with memory that the robot collects itself, always exploring in this mode ('off': never)"
    parser.add_argument("--work", nargs="+", default=[], metavar="MODE", help=work)
    parser.add_argument("--bank", type=Path, help="as trained: recall from this bank, such as one of ./efn collect")
    recurring = "fill banks in the evaluated scenes, not in others"
    parser.add_argument("--recurring", action="store_true", help=recurring)
    parser.add_argument("--processes", type=int, default=2, help="that run episodes")
    output = "directory; a second run continues in it"
    parser.add_argument("--output", type=Path, default=Path("efn_evaluation"), help=output)
    parser.add_argument("--results", type=Path, help="also write comparisons and episodes to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from efn_ros.bank import BankReader
    from efn_ros.evaluation import comparisons, evaluate, plan
    from efn_ros.report import provenance
    from efn_ros.report.blocks.evaluation import evaluation_block
    from efn_ros.runtime.factory import make_deployment
    from efn_ros.runtime.graph import Graph
    from efn_ros.worlds import Deployment

    graph = Graph.load(args.graph, args.params_file)
    tasks = select_tasks(graph.world, args.tasks)
    if make_deployment(graph.world) != Deployment():
        raise SystemExit("efn evaluate: the parameters give sim_bridge a deployment; leave it out, seeds draw it")
    seeds = [None] if args.setting == AS_TRAINED else range(args.first_seed, args.first_seed + args.deployments)
    if args.bank:
        present = len(BankReader(args.bank).rollouts())
        if args.setting != AS_TRAINED or present < max(args.volumes):
            raise SystemExit(
                f"efn evaluate: --bank is of --setting {AS_TRAINED}, and must hold as many rollouts as the largest of "
                f"--volumes; {args.bank} holds {present}"
            )
    learned = graph.parameters("efn_corrector")["method"] == "learned"
    try:
        jobs = plan(
            args.graph,
            tasks,
            seeds,
            episodes=args.episodes,
            volumes=args.volumes,
            overlays=args.params_file,
            variants=_variants(args.output, learned, args.no_memory, args.ablation),
            working=_working(args.output, args.work),
            recurring=args.recurring,
            memory=str(args.bank.resolve()) if args.bank else "",
            kinds=args.kinds,
        )
    except ValueError as error:
        raise SystemExit(f"efn evaluate: {error}") from error
    started = time.monotonic()
    episodes = evaluate(jobs, args.output, processes=args.processes)
    report = {
        **provenance.here(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "setting": args.setting,
        "deployments": len(seeds),
        "tasks": tasks,
        "episodes_a_task": args.episodes,
        "recurring": args.recurring,
        "kinds": args.kinds,
        "bank": bool(args.bank),
        "comparisons": [asdict(c) for c in comparisons(episodes)],
    }
    print(evaluation_block(report))
    print(f"\nepisodes {args.output / 'episodes.jsonl'}")
    if args.results:
        write(args.results, report, [asdict(e) for e in episodes])
        print(f"results  {args.results}")
    return 0


def write(path: Path, report: dict, episodes: Sequence[dict]) -> None:
    """Write the report and every episode as one JSON file, with one episode a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps(report, indent=1, allow_nan=False).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(episode, allow_nan=False) for episode in episodes)
    path.write_text(f'{head},\n "episodes": [\n  {lines}\n ]\n}}\n')


def _variants(output: Path, learned: bool, no_memory: Path | None, ablations: Sequence[str]) -> dict[str, str]:
    """Name of a condition -> parameter file; files of the usual conditions are written to `output`."""
    from efn_ros.evaluation.plan import NO_MEMORY, RECALLED_ACTION
    from efn_ros.runtime.experiments import EXPERIMENT

    variants = {}
    if learned:  # otherwise memory uses this method already
        form = {EXPERIMENT: "", "method": "recalled_action", "gain": 0.5, "min_confidence": 0.5}
        variants[RECALLED_ACTION] = _overlay(output, RECALLED_ACTION, form)
    if no_memory:
        network = {EXPERIMENT: "", "method": "learned", "checkpoint": str(no_memory.resolve())}
        variants[NO_MEMORY] = _overlay(output, NO_MEMORY, network)
    for ablation in ablations:
        name, separator, file = ablation.partition("=")
        if not separator or name in variants or not Path(file).is_file():
            raise ValueError(f"--ablation {ablation!r}: give NAME=FILE, a new name and an existing parameter file")
        variants[name] = file
    return variants


def _working(output: Path, modes: Sequence[str]) -> dict[str, str]:
    """Name of a condition -> parameter file, for exploration in each mode, in every episode and at any confidence."""
    from efn_ros.correction.exploration import MODES, OFF
    from efn_ros.evaluation.plan import WORK

    working = {}
    for mode in modes:
        if mode not in (OFF, *MODES):
            raise ValueError(f"--work {mode!r} is unknown; choose from {', '.join((OFF, *MODES))}")
        name = WORK if mode == OFF else f"{WORK} with {mode}"
        always = {"mode": mode, "episode_fraction": 1.0, "max_confidence": 1.0}
        working[name] = _overlay(output, name, {"exploration": always})
    return working


def _overlay(output: Path, name: str, parameters: dict) -> str:
    """Write parameters of the corrector to a file of their own; return its name."""
    file = output / "conditions" / f"{name.replace(' ', '-')}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": parameters}}))
    return str(file)
