# SPDX-License-Identifier: MIT
"""The model card of a policy: its data, its training, and its success on held-out scenes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from efn_ros.evaluation import BASE, Condition, Job, evaluate
from efn_ros.report import provenance, tables
from efn_ros.worlds.registry import ARMS, TITLES, world_tasks

CARD = """---
library_name: transformers
license: mit
pipeline_tag: robotics
---
# PocketVLA

A small vision-language-action policy for {arm}. Its input is two 96 x 96 images, an instruction and the state of the
hand, its output a chunk of four actions. Trained by `./efn train-policy`, it lets you run and measure everything around
a frozen policy without a download.

* **Data**: {episodes} episodes of scripted experts on {tasks} tasks of {simulator}, in {rounds} rounds: the first
  with noise on the expert's actions, the others driven by the student and labelled by the expert (DAgger). Scenes from
  seed {first_seed} on. The policy reads images, instruction and the hand's state only; the image positions of hand,
  object and goal supervise three of its keypoints.{note}
* **Training**: {updates} updates of {batch} decisions, seed {seed}, {minutes:.0f} minutes, threads: {threads},
  on {cpu}.
* **Test**: {test} scenes a task (seeds 0 to {last}), not used in training, without memory.

{table}
"""


def write_card(checkpoint: Path, facts: dict, episodes: int, output: Path, processes: int) -> str:
    """Evaluate a checkpoint, and write card.json and README.md beside it.

    Args:
        checkpoint: Its directory.
        facts: Content of train.json; a `note` in it is added to the card.
        episodes: Scenes of each task.
        output: Directory of the evaluation, which resumes there if it was interrupted.
        processes: That evaluate.

    Returns:
        The table of results.
    """
    output.mkdir(parents=True, exist_ok=True)
    overlay = output / "checkpoint.yaml"
    parameters = {
        "vla_policy": {"policy": "pocket_vla", "checkpoint": str(checkpoint.resolve())},
        "efn_corrector": {"method": "recalled_action"},  # an EFN that fits may not exist yet
        "experience_retrieval": {"codes": ""},
    }
    overlay.write_text(yaml.safe_dump({f"/efn/{node}": {"ros__parameters": p} for node, p in parameters.items()}))
    world, base = facts["config"]["world"], (Condition(BASE, correct=False),)
    names = facts["config"]["tasks"] or list(world_tasks(world))
    jobs = [Job(f"{world}_sim", None, task, episodes, base, (str(overlay),)) for task in names]
    done = evaluate(jobs, output, processes=processes)
    tasks = {}
    for task in names:
        own = [e for e in done if e.task == task]
        lengths = [e.length for e in own if e.success]
        success = sum(e.success for e in own) / len(own)
        tasks[task] = {"success": success, "steps": sum(lengths) / max(len(lengths), 1), "n": len(own)}
    mean = sum(t["success"] for t in tasks.values()) / len(tasks)
    card = {**provenance.here(), "training": facts, "tasks": tasks, "mean": mean}
    (checkpoint / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    rows = [[task, tables.percent(t["success"]), f"{t['steps']:.0f}"] for task, t in tasks.items()]
    table = tables.markdown(["task", "success", "steps"], [*rows, ["mean", tables.percent(mean), ""]])
    config = facts["config"]
    (checkpoint / "README.md").write_text(
        CARD.format(
            arm=ARMS[world],
            simulator=TITLES[world],
            note="\n  " + facts["note"] if "note" in facts else "",
            episodes=sum(config["episodes"]) * len(names),
            tasks=len(names),
            rounds=len(config["episodes"]),
            first_seed=config["first_seed"],
            updates=facts["updates"],
            batch=config["batch_size"],
            seed=config["seed"],
            minutes=facts["minutes_of_updates"],
            threads=config["threads"],
            cpu=card["machine"]["cpu"],
            test=episodes,
            last=episodes - 1,
            table=table,
        )
    )
    return table
