# SPDX-License-Identifier: MIT
"""The first EFN for a policy without a simulator, trained on the outcomes of a bank's rollouts.

The samples are those of `BankDataset`. Where a corrected or explored rollout succeeded, the target is what was added to
the base action; where the base policy alone succeeded, it is zero. The input is recalled from a random subset of the
other rollouts, drawn anew for each repetition of a rollout, so that one set of weights serves any size of bank.

Exploration differs from rollout to rollout, so the mean over successes is what was needed; the squared error, unlike
the absolute error, finds that mean. Most of the remaining differences are random and a bank is small, so the checkpoint
holds the weights with the lowest loss on held-out rollouts, the untrained ones without a residual among them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from efn_ros.bank import BankReader, StoredRollout
from efn_ros.bank.format.steps import successors
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import SIZES, EfnConfig
from efn_ros.runtime.factory import make_retrieval_config
from efn_ros.runtime.graph import Graph
from efn_ros.training.bank_dataset import DECIDED, MIN_BOUND, BankDataset, is_held_out
from efn_ros.training.dataset import MAX_SKETCHES, MAX_VALIDATED
from efn_ros.training.loop import LoopConfig, TrainingLoop, warmup_cosine
from efn_ros.training.state import check_settings, settings_of
from efn_ros.training.supervised import FACTS, set_codes, std_or_one
from efn_ros.types import Mode, Outcome

BEST = "best.json"  # validation of the weights beside it, until the training is finished


@dataclass(frozen=True)
class FromBankConfig:
    """Settings of `train_from_bank`. The network has no trust, which is trained in many deployments."""

    directory: str  # of the run: state, log, checkpoint
    bank: str  # directory of rollouts of one policy
    graph: str = "metaworld_sim"  # for the settings of recall and the largest residual
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    size: str = "small"  # of the network, one of SIZES
    code_size: int = 64  # of `EfnConfig`
    use_memory: bool = True  # of `EfnConfig`
    draws: int = 3  # repetitions of each rollout, each with another subset of the bank
    updates: int = 1000  # number of optimiser steps
    batch_size: int = 128  # decisions an update
    learning_rate: float = 1e-3  # largest, of AdamW
    weight_decay: float = 0.01  # of AdamW
    dropout: float = 0.1  # rate in the encoder
    base_weight: float = 0.25  # of a decision of the base policy alone in a success, against 1 for a corrected one
    held_out_fraction: float = 0.1  # of rollouts that only validate
    validate_every: int = 250  # updates
    seed: int = 0  # of all random choices
    threads: int = 1  # of torch


def train_from_bank(config: FromBankConfig) -> Path:
    """Train a new network, or resume an interrupted training with the same settings.

    A finished network is not trained again.

    Returns:
        The directory of the checkpoint, whose facts.json holds its validation.

    Raises:
        ValueError: The directory holds a network of other settings or of a bank that has grown since; or no corrected
            or explored success is in the bank, either to train on or held out.
        BankError: As `BankReader.snapshot` raises it.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    graph, snapshot = Graph.load(config.graph, config.overlays), BankReader(Path(config.bank).expanduser()).snapshot()
    memory = [r for r in snapshot.rollouts if r.record.recallable and np.isin(r.arrays.modes, DECIDED).any()]
    memory = [r for r in memory if r.record.policy == memory[-1].record.policy]
    training, held_out = _split(memory, config)
    rng, directory = np.random.default_rng(config.seed), Path(config.directory)
    settings = settings_of(config, "directory") | {"rollouts": len(memory)}
    facts_file = directory / FACTS
    if facts_file.exists():
        check_settings(directory, json.loads(facts_file.read_text())["config"], settings)
        return directory
    bound = tuple(float(b) for b in graph.parameters("efn_corrector")["limits.residual"])
    efn = _network(config, memory, bound, rng)
    retrieval = make_retrieval_config(graph.parameters("experience_retrieval"))
    projection = snapshot.projection
    samples = BankDataset(training * config.draws, memory, retrieval, efn, projection=projection, subsets=rng)
    validation = BankDataset(held_out, memory, retrieval, efn, projection=projection)
    directory.mkdir(parents=True, exist_ok=True)
    log, state, best = SummaryWriter(directory / "log"), directory / "from_bank.safetensors", directory / BEST

    def save_best() -> dict[str, float]:
        losses = validate(efn.eval(), validation, config)
        if not best.exists() or losses["memory"] < json.loads(best.read_text())["memory"]:
            efn.save_pretrained(directory)
            best.write_text(json.dumps(losses))
        return losses

    if not state.exists():
        best.unlink(missing_ok=True)
        save_best()
    rate = warmup_cosine(config.learning_rate, config.updates)
    how = LoopConfig(config.updates, rate, config.weight_decay, config.seed, config.validate_every, settings)
    parameters = {name: p for name, p in efn.named_parameters() if not name.startswith("identify.")}
    loop = TrainingLoop(parameters, how, state, log=log)
    loop.run(lambda _, batch_rng: _loss(efn.train(), samples, config, batch_rng), save_best)
    log.close()
    facts = {
        "config": settings,
        "decisions": len(samples),
        "minutes": loop.seconds / 60,
        "corrected": int((samples.corrected & samples.success).sum()),
        "validation": json.loads(best.read_text()),
    }
    facts_file.write_text(json.dumps(facts, indent=1) + "\n")
    for file in (state, best):
        file.unlink()
    return directory


def validate(efn: Efn, samples: BankDataset, config: FromBankConfig) -> dict[str, float]:
    """Return mean square distances to what was added in held-out successes, in units of the bound.

    Returns:
        none: without a residual; memory: with the network's; corrected_none, corrected_memory: over corrected
        decisions alone.
    """
    rows = np.flatnonzero(samples.success)
    rows = np.random.default_rng(config.seed).permutation(rows)[:MAX_VALIDATED]
    with torch.inference_mode():
        residual = efn.residual(*samples.batch(rows))
        distances = [_distance(efn, x, samples.target[rows]) for x in (torch.zeros_like(residual), residual)]
    corrected = torch.from_numpy(samples.corrected[rows])
    named = {"none": distances[0], "memory": distances[1]}
    named |= {f"corrected_{name}": values[corrected] for name, values in named.items()}
    return {name: values.mean().item() for name, values in named.items()}


def _split(memory: list[StoredRollout], config: FromBankConfig) -> tuple[list[StoredRollout], list[StoredRollout]]:
    """Split rollouts into those to train on and those held out."""
    held_out = [r for r in memory if is_held_out(r.record.id, config.held_out_fraction)]
    training = [r for r in memory if not is_held_out(r.record.id, config.held_out_fraction)]
    for part, what in ((training, "to train on"), (held_out, f"held out ({config.held_out_fraction:g} of all)")):
        if not any(r.record.outcome == Outcome.SUCCESS and (r.arrays.modes == Mode.CORRECTED).any() for r in part):
            raise ValueError(f"{config.bank} holds no corrected or explored success {what}; enable exploration")
    return training, held_out


def _loss(
    efn: Efn, samples: BankDataset, config: FromBankConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    weight = samples.weights(config.base_weight)
    rows = rng.choice(len(samples), config.batch_size, p=weight / weight.sum(dtype=np.float64))
    distance = _distance(efn, efn.residual(*samples.batch(rows)), samples.target[rows]).mean()
    return distance, {"train": distance.item()}


def _distance(efn: Efn, residual: Tensor, target: np.ndarray) -> Tensor:
    """Mean square error in units of the bound, (B,)."""
    bound = efn.bound.clamp(min=MIN_BOUND)
    return ((residual - torch.from_numpy(target).clamp(-bound, bound)) / bound).square().mean((1, 2))


def _network(
    config: FromBankConfig, memory: list[StoredRollout], bound: tuple[float, ...], rng: np.random.Generator
) -> Efn:
    """An untrained network that fits the bank."""
    arrays = [rollout.arrays for rollout in memory]
    proprio = np.concatenate([a.proprio for a in arrays])
    motion = np.concatenate([a.proprio[successors(a.steps)] - a.proprio for a in arrays])
    sketches: list[np.ndarray] = []
    for index in rng.permutation(len(memory)):
        steps = memory[index].sketches(*range(len(arrays[index].steps)))
        sketches += [step.dequantise() for step in steps]
        if len(sketches) >= MAX_SKETCHES:
            break
    efn = Efn(
        EfnConfig(
            horizon=arrays[0].base.shape[1],
            action_size=arrays[0].base.shape[2],
            latent=arrays[0].latent.shape[1:],
            sketch=sketches[0].shape,
            bound=bound,
            proprio_mean=tuple(proprio.mean(axis=0).tolist()),
            proprio_std=std_or_one(proprio),
            motion_std=std_or_one(motion),
            dropout=config.dropout,
            use_memory=config.use_memory,
            code_size=config.code_size,
            **SIZES[config.size],
        )
    )
    if config.code_size:
        set_codes(efn, np.stack(sketches).reshape(len(sketches), -1))
    return efn
