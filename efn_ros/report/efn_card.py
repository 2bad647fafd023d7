"""The model card of a trained EFN: what it was made from, and where its results are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from efn_ros.efn.config import CONFIG, PACKAGED, WEIGHTS
from efn_ros.report import provenance, tables
from efn_ros.runtime.graph import Graph
from efn_ros.worlds.world import TITLES

CARD = """---
license: mit
pipeline_tag: robotics
---
# Experience Feedback Network for PocketVLA

Corrects the actions of the frozen PocketVLA policy on a simulated arm, in {world}: it reads the present step and steps
recalled from the bank of the robot's own work, and adds a residual. Without memory the residual is zero. Made by `./efn
train`; `docs/learning.md` explains how, `docs/evaluation.md` what it gains.

* **Data**: {decisions} decisions in {deployments} simulated deployments (seeds from {first_seed} on; shifts of
  {kinds}){cameras}. {bank_rollouts} rollouts of the policy alone fill the bank of each, samples are taken of
  {sample_rollouts}. The teacher is the policy itself, shown the scene as it was trained.{note}
* **Training**: {updates} updates of {batch} decisions, seed {seed}, {minutes:.0f} minutes, threads: {threads},
  on {cpu}.
* **Size**: {parameters:.2f} million parameters.
* **Loss** in {validated} that it was not trained on (smooth L1 of the residual):

{table}{trust}
"""


def install(checkpoint: Path, note: str = "", target: Path | None = None) -> Path:
    """Copy a trained round with card.json and README.md into the package.

    Args:
        checkpoint: The directory of the round.
        note: One more sentence on the data.
        target: Another directory than the package's.

    Returns:
        The directory it was copied to.
    """
    facts = json.loads((checkpoint / "facts.json").read_text())
    collection = facts["config"]["collection"]
    world = Graph.load(collection["graph"], collection["overlays"]).world["world"]
    target = target or PACKAGED / world
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(checkpoint / name, target / name)
    card = {**provenance.here(), "training": facts, **({"note": note} if note else {})}
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    losses, settings = facts["validation"], facts["config"]
    names = {"none": "no residual", **{f"volume_{v}": f"memory of {v} rollouts" for v in settings["bank_sizes"]}}
    trust = ""
    if "trust_right" in losses:
        trust = f"\n\n* **Trust** there, in the right memory: {losses['trust_right']:.2f} on average"
        trust += f"; in that of another deployment: {losses['trust_wrong']:.2f}." if "trust_wrong" in losses else "."
    (target / "README.md").write_text(
        CARD.format(
            decisions=facts["decisions"],
            deployments=facts["deployments"],
            validated=f"{facts['validated']} deployment{'s' * (facts['validated'] != 1)}",
            parameters=facts["parameters"] / 1e6,
            first_seed=settings["first_seed"],
            batch=settings["batch_size"],
            seed=settings["seed"],
            threads=settings["threads"],
            updates=facts["updates"],
            minutes=facts["minutes"],
            cpu=card["machine"]["cpu"],
            note=f"\n  {note}" if note else "",
            table=tables.markdown(["", "loss"], [[names[n], f"{losses[n]:.4f}"] for n in names]),
            trust=trust,
            bank_rollouts=collection["bank_rollouts"],
            sample_rollouts=collection["sample_rollouts"],
            world=TITLES[world],
            kinds=", ".join(collection["kinds"]),
            cameras=", each also seen by other cameras"
            if collection["other_cameras"] or collection["extra_cameras"]
            else "",
        )
    )
    return target
