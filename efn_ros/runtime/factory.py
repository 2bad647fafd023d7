"""From parameters, by the names of `config/<robot>.yaml`, to the parts of the loop; for nodes and agent alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.store.retention import MEGABYTE, Retention
from efn_ros.correction import Corrector, RecalledAction
from efn_ros.correction.corrector import Residual
from efn_ros.correction.exploration import Exploration, actor_sampler
from efn_ros.correction.limits import ActionLimits
from efn_ros.correction.registry import Registry
from efn_ros.efn.config import PACKAGED, WEIGHTS
from efn_ros.experiments.image_reranking.looks import LookExtractor
from efn_ros.experiments.image_reranking.rerank import RerankConfig, Reranker
from efn_ros.features.codes import Codes
from efn_ros.features.sketches import Projection
from efn_ros.policies import FrozenPolicy
from efn_ros.policies.registry import load_policy
from efn_ros.resources import checkpoint_directory
from efn_ros.retrieval import RecallConfig, Retriever
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.worlds import Deployment, World
from efn_ros.worlds.deployment import KINDS
from efn_ros.worlds.registry import make_world

if TYPE_CHECKING:
    from efn_ros.correction.switching import Switching
    from efn_ros.online.learner import Learner


Parameters = Mapping[str, Any]


LIMITS = ("low", "high", "velocity", "acceleration", "jerk", "reject", "residual", "holds_last")


def make_policy(p: Parameters) -> FrozenPolicy:
    """Of vla_policy. The sizes are those of an untrained or constant policy; a checkpoint knows its own."""
    name, settings = p["policy"], {}
    if name in ("untrained", "constant", "sway"):
        proprio, size = p["proprio_size"], p["action_size"]
        settings = {"image_size": p["image_size"], "proprio_size": proprio, "horizon": p["horizon"]}
        settings["cameras"] = tuple(p["cameras"])
        if name == "constant":
            settings["action"] = [0.0] * size
        elif name == "sway":
            settings |= {"action": p["sway.posture"], "amplitude": p["sway.amplitude"]}
            settings |= {"sway_hz": p["sway.rate_hz"], "rate_hz": p["sway.rows_hz"]}
        else:
            settings |= {"action_low": (-1.0,) * size, "action_high": (1.0,) * size}
            settings |= {"proprio_mean": (0.0,) * proprio, "proprio_std": (1.0,) * proprio}
    return load_policy(name, checkpoint=p["checkpoint"], threads=p["threads"], **settings)


def make_projection(p: Parameters) -> Projection:
    return Projection(p["tokens_width"], p["descriptor_size"], p["projection_seed"])


def make_inference(p: Parameters) -> Inference:
    """Of vla_policy."""
    return Inference(make_policy(p), make_projection(p), publish_visual=p["publish_visual"])


def make_codes(checkpoint: str) -> Codes | None:
    """Of the EFN in a directory, or in the package; None for an empty name."""
    return Codes.load(checkpoint_directory(checkpoint, PACKAGED) / WEIGHTS) if checkpoint else None


def make_recall(p: Parameters) -> RecallConfig:
    """Of experience_retrieval."""
    return RecallConfig(
        search=p["search"],
        hits=p["hits"],
        rollouts_n=p["rollouts"],
        steps_n=p["steps"],
        k=p["k"],
        context=p["context"],
        codes=make_codes(p["codes"]),
        temperature=p["temperature"],
        lambda_=p["similarity_weight"],
        beta=p["length_decay"],
        visual=p["weight_visual"],
        latent=p["weight_latent"],
        proprio=p["weight_proprio"],
        argmax=p["argmax"],
        follow=p["follow"],
        success_only=p["success_only"],
        outcomes=p["outcomes"],
        rerank=make_reranker(p),
    )


def make_reranker(p: Parameters) -> Reranker | None:
    """Of experience_retrieval; None without encoder and detector. Raises as these do where they are loaded."""
    encoder, detector = p["rerank.encoder"], p["rerank.detector"]
    if not (encoder or detector):
        return None
    options, networks = {"device": p["rerank.device"], "local_files_only": False}, {}
    if encoder:
        from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder

        networks["encoder"] = ContrastiveEncoder.from_pretrained(encoder, **options)
    if detector:
        from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector

        threshold = p["rerank.threshold"]
        networks["detector"] = OpenVocabularyDetector.from_pretrained(detector, threshold=threshold, **options)
    opening = p["rerank.opening"] if p["rerank.opening"] >= 0 else None
    told = {"gripper": p["rerank.gripper"], "opening": opening, "opening_range": tuple(p["rerank.opening_range"])}
    extractor = LookExtractor(p["rerank.camera"], **told, **networks)
    return Reranker(
        extractor, RerankConfig(**{field.name: p[f"rerank.{field.name}"] for field in fields(RerankConfig)})
    )


def make_retriever(p: Parameters, bank: str | Path) -> Retriever:
    """Of experience_retrieval."""
    return Retriever(BankReader(Path(bank).expanduser(), skip_corrupt=True), make_recall(p))


def make_writer(p: Parameters, bank: str | Path) -> BankWriter:
    """Of bank_writer. Raises ValueError for a budget that cannot be kept."""
    budget = {name: p[f"retention.{name}"] for name in ("strategy", "rollouts", "steps")}
    retention = Retention(**budget, bytes=p["retention.megabytes"] * MEGABYTE)
    settings = {"projection": make_projection(p), "image_quality": p["image_quality"], "retention": retention}
    return BankWriter(Path(bank).expanduser(), **settings)


def make_residual(p: Parameters) -> Residual:
    """Of efn_corrector. Raises ValueError for an unknown method, and as `LearnedResidual` and `load_policy` do."""
    if p["method"] == "recalled_action":
        return RecalledAction(p["gain"], p["min_confidence"])
    if p["method"] == "learned":
        from efn_ros.correction.learned import LearnedResidual
        from efn_ros.efn.checkpoint import read_config
        from efn_ros.efn.config import LATENT

        settings = {name: p[name] for name in ("gain", "check_memory", "disagreement_scale")}
        if p["decoder_policy"] and read_config(checkpoint_directory(p["checkpoint"], PACKAGED)).space == LATENT:
            policy = load_policy(p["decoder_policy"], checkpoint=p["decoder_checkpoint"])
            settings |= {"decode": policy.decode, "policy": policy.spec.fingerprint}
        return LearnedResidual(p["checkpoint"], **settings)
    raise ValueError(f"method {p['method']!r} is unknown; there are 'recalled_action' and 'learned'")


def make_corrector(p: Parameters) -> Corrector:
    """Of efn_corrector. A limit of one entry stands for every dimension."""
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
    """Of efn_corrector. bound: (A,) largest residual. Raises ValueError for parameters that do not fit each other."""
    samples = p["exploration.mode"] == "residual" and p["method"] == "learned"
    return Exploration(
        mode=p["exploration.mode"],
        scale=p["exploration.scale"],
        max_confidence=p["exploration.max_confidence"],
        rate=p["exploration.rate"],
        bound=bound,
        control_steps=p["control_steps"],
        rate_hz=p["rate_hz"],
        sampler=actor_sampler(p["checkpoint"], gain=p["gain"]) if samples else None,
    )


def make_switching(p: Parameters, corrector: Corrector) -> Switching | None:
    """Of efn_corrector; None where it does not learn at work."""
    if not p["learn"] or p["method"] != "learned":
        return None
    from efn_ros.correction.switching import Switching

    def make(checkpoint: Path) -> tuple[Residual, Exploration]:
        named = {**p, "checkpoint": str(checkpoint)}
        return make_residual(named), make_exploration(named, corrector.limits.residual)

    return Switching(corrector, Registry(p["bank"]), checkpoint_directory(p["checkpoint"], PACKAGED), make)


def make_learner(p: Parameters, recall: Parameters, corrector: Parameters, **hooks: Callable) -> Learner:
    """Of efn_trainer. recall, corrector: of experience_retrieval and efn_corrector, with which the robot is corrected.
    hooks: `pause` and `tell` of `Learner`. Raises ValueError for parameters out of range."""
    from efn_ros.online.config import LearnConfig
    from efn_ros.online.learner import Learner

    if corrector["method"] != "learned":
        raise ValueError(f"method of efn_corrector is {corrector['method']!r}; only what is 'learned' can learn on")
    if corrector.get("disagreement_scale"):
        raise ValueError("disagreement_scale of efn_corrector is set; critics cannot learn on at work, set it to 0")
    names = [field.name for field in fields(LearnConfig)]
    config = LearnConfig(**{name: p[name] for name in names})
    checkpoint = checkpoint_directory(corrector["checkpoint"], PACKAGED)
    options = {"gain": corrector["gain"], "rule": p["rule"]}
    return Learner(p["bank"], checkpoint, config, make_recall(recall), **options, **hooks)


def make_deployment(p: Parameters) -> Deployment:
    """Of libero_bridge."""
    strengths = {kind: p[f"deployment.{kind}"] for kind in KINDS}
    return Deployment.draw(p["deployment.seed"], strengths)


def make_simulation(p: Parameters) -> World:
    """Of libero_bridge."""
    settings = {"assets": p["libero_assets"]} if p["world"] == "libero" else {}
    return make_world(p["world"], deployment=make_deployment(p), image_size=p["image_size"], **settings)


def make_agent(graph: Graph, bank: str | Path | None) -> Agent:
    """The graph's agent in this process; without a bank, the base policy alone."""
    inference = make_inference(graph.parameters("vla_policy"))
    corrector = make_corrector(graph.parameters("efn_corrector"))
    if bank is None:
        return Agent(inference, corrector)
    remembered = graph.parameters("bank_writer")
    return Agent(
        inference,
        corrector,
        make_retriever(graph.parameters("experience_retrieval"), bank),
        make_writer(remembered, bank),
        robot=remembered["robot"],
    )
