"""Supervised training of the EFN on lessons from many simulated deployments, in rounds.

Round 0 teaches beside the base policy and its teacher; in every later round the network before it drives half of the
lessons (DAgger), so that it learns in the states to which it leads. For each taught decision a batch draws a bank
of another size out of its deployment's rollouts, so that one set of weights serves any volume of memory.

In latent space the network learns which change of the latent tokens gives the teacher's residual: the loss is on the
action, and gradients flow through the policy's decoder, (2), whose weights stay as they are.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Recalled
from efn_ros.efn.config import ACTION, LATENT, SIZES, EfnConfig
from efn_ros.experiments.latent_residual.residual import latent_bound
from efn_ros.features.codes import principal_components
from efn_ros.runtime.factory import make_policy
from efn_ros.runtime.graph import Graph
from efn_ros.training.augmentation import mislead
from efn_ros.training.collection import LessonConfig, collect, paths_of
from efn_ros.training.config import TrainConfig
from efn_ros.training.dataset import Lessons, sketches_of
from efn_ros.training.loop import descend, refuse_others

RESIDUAL_SCALE = 0.1  # of the action's range, where the loss turns from squares to absolute values


SMALLEST_SPREAD = 1e-6


SETTINGS = "settings.json"  # of lessons, beside them


MEASURED = 1024  # decisions at most, in one validation


def train(config: TrainConfig) -> Path:
    """Run, or go on with, all rounds; returns the directory of the checkpoint."""
    directory, checkpoint = Path(config.directory), ""
    seed = config.first_seed
    for round_, (deployments, updates) in enumerate(zip(config.deployments, config.updates, strict=True)):
        seeds = range(seed, seed + deployments)
        gather(config, seeds, directory / "lessons", checkpoint)
        seed += deployments
        target = directory / f"round_{round_}"
        if (target / "facts.json").exists():
            facts = json.loads((target / "facts.json").read_text())
            refuse_others(target, _of_a_round(facts["config"], facts["updates"]), _of_a_round(asdict(config), updates))
        else:
            fit(config, range(config.first_seed, seed), updates, target)
        checkpoint = str(target)
    return Path(checkpoint)


def _of_a_round(config: dict[str, Any], updates: int) -> dict[str, Any]:
    """What one round was trained with, beside its lessons: others may follow it, on another machine."""
    whole = ("directory", "deployments", "updates", "processes", "threads", "lessons")
    return {name: value for name, value in config.items() if name not in whole} | {"updates": updates}


def gather(config: TrainConfig, seeds: range, directory: Path, checkpoint: str) -> None:
    """Lessons of every deployment that are not there yet. Raises ValueError where those that are there were collected
    with other settings, which lie beside them."""
    settings = {name: value for name, value in asdict(config.lessons).items() if name not in ("seed", "checkpoint")}
    said = directory / SETTINGS
    if said.exists():
        refuse_others(directory, json.loads(said.read_text()), settings)
    missing = [s for s in seeds if not (directory / f"{s}.npz").exists()]
    if not missing:
        return
    directory.mkdir(parents=True, exist_ok=True)
    said.write_text(json.dumps(settings, indent=1) + "\n")
    with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as executor:
        jobs = [replace(config.lessons, seed=s, checkpoint=checkpoint) for s in missing]
        futures = [executor.submit(collect, job, directory) for job in jobs]
        progress = tqdm(as_completed(futures), total=len(seeds), initial=len(seeds) - len(missing), desc="deployments")
        for future in progress:
            future.result()


def fit(config: TrainConfig, seeds: Sequence[int], updates: int, target: Path) -> None:
    """Train from nothing on the lessons of the deployments `seeds` and write checkpoint and facts to `target`; go on
    where a call with the same settings was killed. Raises ValueError where it was killed with others, where there is
    too little to teach trust with, and in latent space for a policy or lessons that cannot be decoded."""
    if config.recent and config.lessons.remembered < 2:
        raise ValueError(f"trust is taught with one rollout kept out of a bank; {config.lessons.remembered} is too few")
    decoder = frozen_decoder(config.lessons) if config.space == LATENT else None
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    held_out = max(1, round(config.validation * len(seeds)))
    measured = seeds[:: len(seeds) // held_out][:held_out]  # of every round some
    files = {seed: paths_of(seed, Path(config.directory) / "lessons") for seed in seeds}
    lessons = Lessons([path for seed in seeds if seed not in measured for path in files[seed]], config, decoder)
    checks = Lessons([files[seed][0] for seed in measured], config, decoder)
    efn = _untrained(config, lessons)
    lessons.encode(efn)
    checks.encode(efn)
    target.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in asdict(config).items() if name != "directory"}
    log, states = SummaryWriter(target / "log"), [target / "efn.safetensors", target / "trust.safetensors"]
    common = {
        **{"log": log, "rate": config.learning_rate, "weight_decay": config.weight_decay, "seed": config.seed},
        **{"every": config.validate_every, "settings": settings | {"updates": updates, "seeds": list(seeds)}},
    }
    learnt = {name: p for name, p in efn.named_parameters() if not name.startswith("trust.")}
    losses, seconds = descend(
        learnt,
        lambda rng: _residual_loss(efn.train(), lessons, config, rng),
        lambda: validate(efn.eval(), checks, config),
        states[0],
        updates=updates,
        **common,
    )
    if config.recent and config.remembers:
        eligible = lessons.seen_by_their_own_cameras()
        trusted, more = descend(
            dict(efn.trust.named_parameters()),
            lambda rng: _trust_loss(efn.eval(), lessons, eligible, config, rng),
            lambda: validate_trust(efn.eval(), checks, config),
            states[1],
            updates=config.trust_updates,
            **common,
        )
        losses, seconds = losses | trusted, seconds + more
    log.close()
    efn.save_pretrained(target)
    facts = {"config": settings, "updates": updates, "decisions": len(lessons), "deployments": len(seeds) - held_out}
    facts |= {"measured": len(checks.parts), "parameters": sum(p.numel() for p in efn.parameters())}
    facts |= {"minutes": round(seconds / 60, 1), "validation": losses}
    (target / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    for state in states:
        state.unlink(missing_ok=True)


def frozen_decoder(lessons: LessonConfig) -> nn.Module:
    """Of the robot's policy; its weights take no gradient. Raises ValueError for a policy that has none."""
    policy = make_policy(Graph.load(lessons.robot, lessons.overlays).parameters("vla_policy"))
    decoder = policy.decoder()
    if decoder is None:
        raise ValueError(
            f"policy {policy.spec.name!r} of {lessons.robot!r} has no decoder to learn through; use --space {ACTION}"
        )
    return decoder


def _untrained(config: TrainConfig, lessons: Lessons) -> Efn:
    """A network that fits the lessons."""
    proprio = np.concatenate([part["bank_proprio"] for part in lessons.parts])
    motion = np.concatenate([part["bank_proprio_next"] for part in lessons.parts]) - proprio
    _, horizon, size = lessons.taught["base"].shape
    bound = latent_bound(lessons.taught["latent"], config.latent_share).tolist() if config.space == LATENT else ()
    efn = Efn(
        EfnConfig(
            horizon=horizon,
            action_size=size,
            latent=lessons.taught["latent"].shape[1:],
            sketch=lessons.taught["sketch"].shape[1:],
            identified=lessons.taught["deployment"].shape[1],
            bound=config.lessons.bound,
            proprio_mean=proprio.mean(axis=0).tolist(),
            proprio_std=spread(proprio),
            motion_std=spread(motion),
            dropout=config.dropout,
            remembers=config.remembers,
            codes=config.codes,
            recent=config.recent if config.remembers else 0,
            space=config.space,
            latent_bound=bound,
            **SIZES[config.size],
        )
    )
    if config.codes:
        mean, basis = principal_components(sketches_of(lessons, np.random.default_rng(config.seed)), config.codes)
        efn.code_mean.copy_(torch.from_numpy(mean))
        efn.code_basis.copy_(torch.from_numpy(basis))
    return efn


def _residual_loss(
    efn: Efn, lessons: Lessons, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Distance to the teacher's residual, and beside it how well the deployment is told."""
    rows = rng.integers(len(lessons), size=config.batch)
    present, recalled, wanted, deployment, _ = lessons.batch(rows, rng, disguised=config.disguised)
    features = efn.features(present, recalled)
    residual = lessons.to_action(efn.bounded(efn.actor(features)[0], recalled), present, rows)
    corrected = _distance(residual, wanted)
    identified = F.mse_loss(efn.identify(features), deployment)
    said = {"train": corrected.item(), "train identification": identified.item()}
    return corrected + config.identification * identified, said


def _trust_loss(
    efn: Efn, lessons: Lessons, eligible: np.ndarray, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of whether the memory is right, and beside it how well its parts tell the deployment."""
    rows = rng.choice(eligible, config.batch)
    present, recalled, _, deployment, recent = lessons.batch(
        rows, rng, disguised=config.disguised, recent=config.recent
    )
    other = mislead(present, deployment, rng, config.wrong)
    recalled = Recalled(*(getattr(recalled, f.name)[other] for f in fields(Recalled)))
    trust, tells = efn.trusts(present, recalled, recent)
    right = torch.from_numpy(other == np.arange(len(other))).float()
    judged = F.binary_cross_entropy(trust, right)
    truth = [deployment[other], deployment] * 2
    identified = sum(F.mse_loss(told, t) for told, t in zip(tells, truth, strict=True))
    return judged + config.trust_identification * identified, {"train": judged.item()}


def spread(values: np.ndarray) -> list[float]:
    """Standard deviation of each column; 1 for one that never changes and so tells nothing."""
    std = values.std(axis=0)
    return np.where(std > SMALLEST_SPREAD, std, 1.0).tolist()


def _distance(residual: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(residual, wanted, beta=RESIDUAL_SCALE)


@torch.inference_mode()
def validate(efn: Efn, checks: Lessons, config: TrainConfig) -> dict[str, float]:
    """Loss on deployments that were not learnt from: without a residual, with banks of each volume, and, last, of
    telling the deployment."""
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(checks), min(len(checks), MEASURED), replace=False)
    losses = {}
    for volume in config.volumes:
        present, recalled, wanted, deployment, _ = checks.batch(rows, rng, volume)
        losses["none"] = _distance(torch.zeros_like(wanted), wanted).item()
        features = efn.features(present, recalled)
        residual = checks.to_action(efn.bounded(efn.actor(features)[0], recalled), present, rows)
        losses[f"volume_{volume}"] = _distance(residual, wanted).item()
        losses["identification"] = F.mse_loss(efn.identify(features), deployment).item()
    return losses


@torch.inference_mode()
def validate_trust(efn: Efn, checks: Lessons, config: TrainConfig) -> dict[str, float]:
    """On deployments that were not learnt from, at the largest volume: loss with blind and with learned trust, and its
    mean, where the memory is right and, if there is one, where it is another deployment's."""
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(checks), min(len(checks), MEASURED), replace=False)
    present, recalled, wanted, deployment, recent = checks.batch(rows, rng, max(config.volumes), recent=config.recent)
    losses = {}
    for name, share in {"right": 0.0, **({"wrong": 1.0} if len(checks.parts) > 1 else {})}.items():
        other = mislead(present, deployment, rng, share)
        memory = Recalled(*(getattr(recalled, f.name)[other] for f in fields(Recalled)))
        residual = checks.to_action(efn.residual(present, memory), present, rows)
        trust, _ = efn.trusts(present, memory, recent)
        losses[f"blind_{name}"] = _distance(residual, wanted).item()
        losses[f"trusting_{name}"] = _distance(trust[:, None, None] * residual, wanted).item()
        losses[f"trust_{name}"] = trust.mean().item()
    return losses
