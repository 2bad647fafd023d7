"""The model card of a trained EFN: what it was made from, and where its results are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from efn_ros.efn.config import CONFIG, PACKAGED, WEIGHTS
from efn_ros.report import provenance, tables
from efn_ros.runtime.graph import Graph
from efn_ros.worlds.deployment import SAMPLED
from efn_ros.worlds.world import TITLES

CARD = """---
license: mit
pipeline_tag: robotics
---
# Experience Feedback Network for PocketVLA

Corrects the actions of the frozen PocketVLA policy on a simulated arm, in {world}: it reads the present step and steps
that were recalled from the bank of its place of work, and adds a residual. Without memory the residual is zero. Made
by `./efn train`; how, is told in `docs/learning.md`, what it is worth in `docs/evaluation.md`.

* **Data**: {decisions} decisions in {deployments} simulated deployments (seeds from {first_seed} on; shifts of
  {kinds}){seen}. {remembered} rollouts of the policy alone fill the bank of each, {taught} are taught in. The
  teacher is the policy itself, shown the scene as it was trained.{note}
* **Training**: {updates} updates of {batch} decisions, seed {seed}, {minutes:.0f} minutes, threads: {threads},
  on {cpu}.
* **Size**: {parameters:.2f} million parameters.
* **Loss** in {measured} that it never learnt from (smooth L1 of the residual):

{table}{trust}
"""


def install(checkpoint: Path, note: str = "", target: Path | None = None) -> Path:
    """Copy a trained round with card.json and README.md to `target`, the package if not said."""
    facts = json.loads((checkpoint / "facts.json").read_text())
    taught = facts["config"]["lessons"]
    world = Graph.load(taught["robot"], taught.get("overlays", ())).parameters("libero_bridge")["world"]
    target = target or PACKAGED / world
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(checkpoint / name, target / name)
    card = {**provenance.here(), "training": facts, **({"note": note} if note else {})}
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    losses, settings = facts["validation"], facts["config"]
    names = {"none": "no residual", **{f"volume_{v}": f"memory of {v} rollouts" for v in settings["volumes"]}}
    trust = ""
    if "trust_right" in losses:
        trust = f"\n\n* **Trust** there, in the right memory: {losses['trust_right']:.2f} on average"
        trust += f"; in that of another deployment: {losses['trust_wrong']:.2f}." if "trust_wrong" in losses else "."
    (target / "README.md").write_text(
        CARD.format(
            decisions=facts["decisions"],
            deployments=facts["deployments"],
            measured=f"{facts['measured']} deployment{'s' * (facts['measured'] != 1)}",
            parameters=facts["parameters"] / 1e6,
            first_seed=settings["first_seed"],
            batch=settings["batch"],
            seed=settings["seed"],
            threads=settings["threads"],
            updates=facts["updates"],
            minutes=facts["minutes"],
            cpu=card["machine"]["cpu"],
            note=f"\n  {note}" if note else "",
            table=tables.markdown(["", "loss"], [[names[n], f"{losses[n]:.4f}"] for n in names]),
            trust=trust,
            remembered=taught["remembered"],
            taught=taught["taught"],
            world=TITLES[world],
            kinds=", ".join(taught.get("kinds", SAMPLED)),
            seen=", each also seen through other cameras" if taught["views"] or taught["glimpses"] else "",
        )
    )
    return target
