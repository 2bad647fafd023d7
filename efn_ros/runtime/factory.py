# SPDX-License-Identifier: MIT
"""From the parameters of the nodes to the parts of the loop, for nodes and agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.store.retention import MEGABYTE, Retention
from efn_ros.bank.store.snapshot import SnapshotSource
from efn_ros.correction import ActionLimits, Corrector, RecalledAction
from efn_ros.correction.checkpoint_registry import Registry
from efn_ros.correction.corrector import Residual
from efn_ros.correction.exploration import Exploration, actor_sampler
from efn_ros.efn.config import PACKAGED, WEIGHTS
from efn_ros.features.codes import SketchEncoder
from efn_ros.features.sketches import Projection
from efn_ros.plugins import PluginGroup
from efn_ros.policies import FrozenPolicy, load_policy
from efn_ros.resources import checkpoint_directory
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.retrieval.similarity import CueWeights
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.experiments import EXPERIMENT, load_experiment
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.worlds import Deployment, TrainingWorld, make_world
from efn_ros.worlds.deployment import KINDS

if TYPE_CHECKING:
    from efn_ros.correction.switching import Switching

Parameters = Mapping[str, Any]
LIMITS = ("low", "high", "velocity", "acceleration", "jerk", "reject", "residual", "holds_last")
# An entry point of another distribution names a function (parameters of efn_corrector) -> Residual.
RESIDUALS = PluginGroup(
    group="efn_ros.residuals",
    kind="method",
    own=("recalled_action", "learned"),
    interface="Residual",
    members={"__call__": Callable},
)


def make_policy(p: Parameters) -> FrozenPolicy:
    """Build the policy of vla_policy; the parameters have the sizes of a policy without a checkpoint."""
    name, settings = p["policy"], {}
    if name in ("untrained", "constant", "sine"):
        needed = ("image_size", "proprio_size", "action_size", "horizon", "cameras")
        if missing := [key for key in needed if key not in p]:
            raise ValueError(f"policy {name!r} has no checkpoint that tells its sizes: set {', '.join(missing)} too")
        proprio, size = p["proprio_size"], p["action_size"]
        settings = {key: p[key] for key in ("image_size", "proprio_size", "horizon")} | {"cameras": tuple(p["cameras"])}
        if name == "constant":
            settings["action"] = [0.0] * size
        elif name == "sine":
            settings |= {key: p[f"sine.{key}"] for key in ("amplitude", "frequency_hz", "action_rate_hz")}
            settings["action"] = p["sine.posture"]
        else:
            settings |= {"action_low": (-1.0,) * size, "action_high": (1.0,) * size}
            settings |= {"proprio_mean": (0.0,) * proprio, "proprio_std": (1.0,) * proprio}
    return load_policy(name, checkpoint=p["checkpoint"], threads=p["threads"], **settings)


def make_projection(p: Parameters) -> Projection:
    """Build the projection of vla_policy and bank_writer."""
    return Projection(p["tokens_width"], p["descriptor_size"], p["projection_seed"])


def make_inference(p: Parameters) -> Inference:
    """Build the inference of vla_policy."""
    if name := p.get(EXPERIMENT):
        return load_experiment(name, "make_inference").make_inference(p)
    return Inference(make_policy(p), make_projection(p))


def make_retrieval_config(p: Parameters) -> RetrievalConfig:
    """Build the settings of experience_retrieval."""
    return RetrievalConfig(
        search=p["search"],
        hits=p["hits"],
        max_rollouts=p["max_rollouts"],
        max_steps=p["max_steps"],
        k=p["k"],
        random_steps=p["random_steps"],
        codes=SketchEncoder.load(checkpoint_directory(p["codes"], PACKAGED) / WEIGHTS) if p["codes"] else None,
        temperature=p["temperature"],
        lambda_=p["similarity_weight"],
        beta=p["length_decay"],
        weights=CueWeights(p["weight_visual"], p["weight_latent"], p["weight_proprio"]),
        argmax=p["argmax"],
        reference_margin=p["reference_margin"],
        success_only=p["success_only"],
        success_model_rollouts=p["success_model_rollouts"],
    )


def make_retriever(p: Parameters, source: SnapshotSource) -> Retriever:
    """Build the retriever of experience_retrieval over a source of snapshots."""
    if name := p.get(EXPERIMENT):
        return load_experiment(name, "make_retriever").make_retriever(p, source)
    return Retriever(source, make_retrieval_config(p))


def make_writer(p: Parameters, bank: str | Path) -> BankWriter:
    """Open the bank of bank_writer.

    Raises:
        ValueError: The budget does not fit the strategy.
        BankError: As `BankWriter` raises it.
    """
    budget = {name: p[f"retention.{name}"] for name in ("strategy", "rollouts", "steps")}
    return BankWriter(
        Path(bank).expanduser(),
        projection=make_projection(p),
        image_quality=p["image_quality"],
        retention=Retention(**budget, bytes=p["retention.megabytes"] * MEGABYTE),
    )


def make_residual(p: Parameters) -> Residual:
    """Build the residual of efn_corrector.

    Raises:
        ValueError: The method is unknown, cannot be used, or its checkpoint does not fit.
        FileNotFoundError: There is no checkpoint.
    """
    if name := p.get(EXPERIMENT):
        return load_experiment(name, "make_residual").make_residual(p)
    if p["method"] == "recalled_action":
        return RecalledAction(p["gain"], p["min_confidence"])
    if p["method"] == "learned":
        from efn_ros.correction.learned import LearnedResidual

        return LearnedResidual(p["checkpoint"], gain=p["gain"], check_memory=p["check_memory"])
    return RESIDUALS.make(p["method"], p)


def make_corrector(p: Parameters) -> Corrector:
    """Build the corrector of efn_corrector; a limit of one entry is that of every dimension.

    Raises:
        ValueError: Parameters do not fit each other.
        FileNotFoundError: There is no checkpoint.
    """
    values = {name: list(p[f"limits.{name}"]) for name in LIMITS}
    size = max(map(len, values.values()))
    values = {name: value * size if len(value) == 1 else value for name, value in values.items()}
    limits = ActionLimits.create(rate_hz=p["rate_hz"], **values)
    measured = [] if list(p["limits.measured"]) == [-1] else p["limits.measured"]
    return Corrector(
        limits,
        make_residual(p),
        control_steps=p["control_steps"],
        measured=measured,
        shadow=p["shadow"],
        explore=make_exploration(p, limits.residual),
    )


def make_exploration(p: Parameters, bound: np.ndarray) -> Exploration:
    """Build the exploration of efn_corrector.

    Args:
        p: Parameters.
        bound: Largest residual, (A,).

    Raises:
        ValueError: Parameters do not fit each other.
    """
    sampled = p["exploration.mode"] == "residual" and p["method"] == "learned"
    return Exploration(
        mode=p["exploration.mode"],
        scale=p["exploration.scale"],
        max_confidence=p["exploration.max_confidence"],
        episode_fraction=p["exploration.episode_fraction"],
        bound=bound,
        control_steps=p["control_steps"],
        rate_hz=p["rate_hz"],
        sampler=actor_sampler(p["checkpoint"], gain=p["gain"]) if sampled else None,
    )


def make_switching(p: Parameters, corrector: Corrector) -> Switching | None:
    """Build the switching of checkpoints of efn_corrector; None if it does not learn at work."""
    if not p["learn"] or p["method"] != "learned":
        return None
    from efn_ros.correction.switching import Switching

    def make(checkpoint: Path) -> tuple[Residual, Exploration]:
        q = {**p, "checkpoint": str(checkpoint)}
        return make_residual(q), make_exploration(q, corrector.limits.residual)

    return Switching(corrector, Registry(p["bank"]), checkpoint_directory(p["checkpoint"], PACKAGED), make)


def make_deployment(p: Parameters) -> Deployment:
    """Draw the deployment of sim_bridge."""
    return Deployment.draw(p["deployment.seed"], {kind: p[f"deployment.{kind}"] for kind in KINDS})


def make_simulation(p: Parameters) -> TrainingWorld:
    """Build the world of sim_bridge."""
    settings = {"assets": p["libero_assets"]} if p["world"] == "libero" else {}
    return make_world(p["world"], deployment=make_deployment(p), image_size=p["image_size"], **settings)


def make_agent(graph: Graph, bank: str | Path | None) -> Agent:
    """Build the agent of a graph with a bank, or with the base policy alone."""
    inference = make_inference(graph.parameters("vla_policy"))
    corrector = make_corrector(graph.parameters("efn_corrector"))
    if bank is None:
        return Agent(inference, corrector)
    source = BankReader(Path(bank).expanduser(), skip_corrupt=True)
    retriever = make_retriever(graph.parameters("experience_retrieval"), source)
    p = graph.parameters("bank_writer")
    return Agent(inference, corrector, retriever, make_writer(p, bank), p["robot"])
