# SPDX-License-Identifier: MIT
"""The model card of a trained EFN: its data, its training and its validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from efn_ros.efn.config import CONFIG, PACKAGED, WEIGHTS
from efn_ros.report import provenance, tables
from efn_ros.runtime.graph import Graph
from efn_ros.worlds.registry import TITLES

TRUST = (("trust_own", "trust_right"), ("trust_negative", "trust_wrong"))  # validation now, and in version 0.1
CARD = """---
license: mit
pipeline_tag: robotics
---
# Experience Feedback Network for PocketVLA

Corrects the actions of the frozen PocketVLA policy on a simulated arm, in {world}. It reads the present step and steps
recalled from the robot's own experience bank, and adds a residual. Without memory the residual is zero. Trained by
`./efn train`; see `docs/explanation/training.md` for the method and `docs/explanation/what-memory-is-worth.md` for the
results.

* **Data**: {decisions} decisions in {deployments} simulated deployments (seeds from {first_seed} on; shifts of
  {kinds}){cameras}. The bank of each deployment holds {bank_rollouts} rollouts of the policy alone; the samples are
  the decisions of {sample_rollouts} further rollouts. The teacher is the policy itself, with the nominal cameras.{note}
* **Training**: {updates} updates of {batch} decisions, seed {seed}, {minutes:.0f} minutes, threads: {threads},
  on {cpu}.
* **Size**: {parameters:.2f} million parameters.
* **Loss** in {validated} that it was not trained on (smooth L1 of the residual):

{table}{trust}
"""


def install(checkpoint: Path, note: str = "", target: Path | None = None) -> Path:
    """Copy a trained network into the package, with card.json and README.md.

    Args:
        checkpoint: Directory of a round of training.
        note: One more sentence on the data.
        target: Directory to copy to; None: that of the package.

    Returns:
        The directory it was copied to.
    """
    facts = json.loads((checkpoint / "facts.json").read_text())
    losses, settings = facts["validation"], facts["config"]
    collection = settings["collection"]
    world = Graph.load(collection["graph"], collection["overlays"]).world["world"]
    directory = Path(target or PACKAGED / world)
    directory.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(checkpoint / name, directory / name)
    card = {**provenance.here(), "training": facts, **({"note": note} if note else {})}
    (directory / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    names = {"none": "no residual", **{f"volume_{v}": f"memory of {v} rollouts" for v in settings["bank_sizes"]}}
    cameras = ", each also observed by other cameras"
    (directory / "README.md").write_text(
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
            trust=_trust(losses),
            bank_rollouts=collection["bank_rollouts"],
            sample_rollouts=collection["sample_rollouts"],
            world=TITLES.get(world, world),
            kinds=", ".join(collection["kinds"]),
            cameras=cameras if collection["other_cameras"] or collection["extra_cameras"] else "",
        )
    )
    return directory


def _trust(losses: dict[str, float]) -> str:
    """The line on trust; empty for a network without. Facts of version 0.1 have other names."""
    own, negative = (losses.get(new, losses.get(old)) for new, old in TRUST)
    if own is None:
        return ""
    other = "" if negative is None else f", in memory of another deployment {negative:.2f}"
    return f"\n\n* **Trust** there, in memory of the same deployment: {own:.2f} on average{other}."
