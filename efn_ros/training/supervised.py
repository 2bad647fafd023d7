# SPDX-License-Identifier: MIT
"""Supervised training of the EFN on samples from many simulated deployments, in rounds.

In round 0 the samples come from rollouts driven by base policy and teacher. In every later round the network of the
previous round drives half of the rollouts (DAgger, arXiv:1011.0686), so that it learns in the states that it leads to.
Each sample of a batch gets a bank of another size, drawn from its deployment's rollouts, so that one set of weights
serves any size of bank.

The paper argues for reinforcement learning (appendix C) because no label of the residual exists; a simulator that
knows the hidden shift provides one. docs/reference/paper.md describes this difference and the others.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.efn.actor import Efn
from efn_ros.efn.config import SIZES, EfnConfig
from efn_ros.features.codes import principal_components
from efn_ros.training.collection import Collector, collect, sample_files
from efn_ros.training.config import TrainConfig
from efn_ros.training.dataset import MAX_VALIDATED, SampleDataset
from efn_ros.training.loop import LoopConfig, TrainingLoop, warmup_cosine
from efn_ros.training.state import check_settings, settings_of
from efn_ros.training.trust import trust_loss, validate_trust

RESIDUAL_SCALE = 0.1  # in the action's units, where the loss turns from quadratic to linear
MIN_STD = 1e-6
SAMPLES, SETTINGS, FACTS = "samples", "settings.json", "facts.json"
# Settings of a whole training, not of one round: other rounds may follow, on another machine.
NOT_OF_A_ROUND = ("directory", "deployments", "updates", "processes", "threads", "collection")


class SupervisedTraining:
    """A training in a directory: its samples and, for each round, a checkpoint with its facts."""

    collector: type[Collector] = Collector
    dataset: type[SampleDataset] = SampleDataset

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._directory = Path(config.directory)

    def run(self) -> Path:
        """Run all rounds, or resume.

        Returns:
            The directory of the last checkpoint.

        Raises:
            ValueError: The directory holds a training with other settings.
        """
        config, checkpoint, seed = self.config, "", self.config.first_seed
        for round_, (deployments, updates) in enumerate(zip(config.deployments, config.updates, strict=True)):
            target = self._directory / f"round_{round_}"
            if finished := (target / FACTS).exists():  # refused, if at all, before hours of collection
                facts = json.loads((target / FACTS).read_text())
                made = {name: value for name, value in facts["config"].items() if name not in NOT_OF_A_ROUND}
                asked = settings_of(config, *NOT_OF_A_ROUND) | {"updates": updates}
                check_settings(target, made | {"updates": facts["updates"]}, asked)
            self.collect(range(seed, seed + deployments), checkpoint)
            seed += deployments
            if not finished:
                self.fit(range(config.first_seed, seed), updates, target)
            checkpoint = str(target)
        return Path(checkpoint)

    def collect(self, seeds: range, checkpoint: str) -> None:
        """Collect the samples of every deployment whose files are missing.

        Raises:
            ValueError: The existing files were collected with other settings, which are stored beside them.
        """
        config, directory = self.config, self._directory / SAMPLES
        settings = settings_of(config.collection, "seed", "checkpoint")
        file = directory / SETTINGS
        if file.exists():
            check_settings(directory, json.loads(file.read_text()), settings)
        missing = [s for s in seeds if not (directory / f"{s}.npz").exists()]
        if not missing:
            return
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings, indent=1) + "\n")
        with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as executor:
            jobs = [replace(config.collection, seed=s, checkpoint=checkpoint) for s in missing]
            futures = [executor.submit(collect, job, directory, self.collector) for job in jobs]
            done = len(seeds) - len(missing)
            for future in tqdm(as_completed(futures), total=len(seeds), initial=done, desc="deployments"):
                future.result()

    def network(self, samples: SampleDataset) -> Efn:
        """Build an untrained network that fits the samples."""
        return Efn(EfnConfig(**self.network_settings(samples)))

    def network_settings(self, samples: SampleDataset) -> dict[str, Any]:
        """Return the fields of the network's configuration."""
        config = self.config
        proprio = np.concatenate([part["bank_proprio"] for part in samples.parts])
        motion = np.concatenate([part["bank_proprio_next"] for part in samples.parts]) - proprio
        _, horizon, size = samples.samples["base"].shape
        return {
            "horizon": horizon,
            "action_size": size,
            "latent": samples.samples["latent"].shape[1:],
            "sketch": samples.samples["sketch"].shape[1:],
            "deployment_size": samples.samples["deployment"].shape[1],
            "bound": config.collection.bound,
            "proprio_mean": proprio.mean(axis=0).tolist(),
            "proprio_std": std_or_one(proprio),
            "motion_std": std_or_one(motion),
            "dropout": config.dropout,
            "use_memory": config.use_memory,
            "code_size": config.code_size,
            "recent_steps": config.recent_steps if config.use_memory else 0,
            **SIZES[config.size],
        }

    def fit(self, seeds: Sequence[int], updates: int, target: Path) -> None:
        """Train a new network on the samples of deployments, or resume an interrupted training.

        Args:
            seeds: Of the deployments.
            updates: Of the residual.
            target: Directory of checkpoint and facts.

        Raises:
            ValueError: It was interrupted with other settings, or the banks are too small to train trust.
        """
        config = self.config
        if config.recent_steps and config.collection.bank_rollouts < 2:
            raise ValueError(
                f"bank_rollouts is {config.collection.bank_rollouts}; trust is trained with one rollout of a bank held "
                "out, so it needs at least 2"
            )
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        held_out = max(1, round(config.validation_fraction * len(seeds)))
        validating = seeds[:: len(seeds) // held_out][:held_out]  # some of every round
        files = {seed: sample_files(seed, self._directory / SAMPLES) for seed in seeds}
        training = self.dataset([path for s in seeds if s not in validating for path in files[s]], config)
        validation = self.dataset([files[s][0] for s in validating], config)
        efn = self.network(training)
        if config.code_size:
            set_codes(efn, training.sketches(np.random.default_rng(config.seed)))
        for samples in (training, validation):
            samples.encode(efn)
        target.mkdir(parents=True, exist_ok=True)
        losses, seconds = self._train(efn, training, validation, seeds, updates, target)
        efn.save_pretrained(target)
        facts = {
            "config": settings_of(config, "directory"),
            "updates": updates,
            "decisions": len(training),
            "deployments": len(seeds) - held_out,
            "validated": len(validation.parts),
            "parameters": sum(p.numel() for p in efn.parameters()),
            "minutes": round(seconds / 60, 1),
            "validation": losses,
        }
        (target / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        for name in ("efn", "trust"):
            (target / f"{name}.safetensors").unlink(missing_ok=True)

    def _train(
        self,
        efn: Efn,
        training: SampleDataset,
        validation: SampleDataset,
        seeds: Sequence[int],
        updates: int,
        target: Path,
    ) -> tuple[dict[str, float], float]:
        """Train the residual, then trust; return the last validation and the duration in seconds."""
        config, log = self.config, SummaryWriter(target / "log")
        settings = settings_of(config, "directory") | {"updates": updates, "seeds": list(seeds)}

        def loop(name: str, parameters: dict[str, Tensor], count: int) -> TrainingLoop:
            rate = warmup_cosine(config.learning_rate, count)
            how = LoopConfig(count, rate, config.weight_decay, config.seed, config.validate_every, settings)
            return TrainingLoop(parameters, how, target / f"{name}.safetensors", log=log)

        residual = loop("efn", {n: p for n, p in efn.named_parameters() if not n.startswith("trust.")}, updates)
        residual.run(
            lambda _, rng: residual_loss(efn.train(), training, config, rng),
            lambda: validate(efn.eval(), validation, config),
        )
        losses, seconds = residual.validation, residual.seconds
        if config.recent_steps and config.use_memory:
            eligible = training.with_own_cameras()
            trust = loop("trust", dict(efn.trust.named_parameters()), config.trust_updates)
            trust.run(
                lambda _, rng: trust_loss(efn.eval(), training, eligible, config, rng),
                lambda: validate_trust(efn.eval(), validation, config, residual_distance),
            )
            losses, seconds = losses | trust.validation, seconds + trust.seconds
        log.close()
        return losses, seconds


def train(config: TrainConfig) -> Path:
    """Run or resume a training; see `SupervisedTraining.run`."""
    return SupervisedTraining(config).run()


def set_codes(efn: Efn, sketches: np.ndarray) -> None:
    """Set the encoder of a network to the principal components of sketches (N, T d)."""
    mean, basis = principal_components(sketches, efn.config.code_size)
    efn.code_mean.copy_(torch.from_numpy(mean))
    efn.code_basis.copy_(torch.from_numpy(basis))


def std_or_one(values: np.ndarray) -> tuple[float, ...]:
    """Return the standard deviation of each column; 1 for a constant column."""
    std = values.std(axis=0)
    return tuple(np.where(std > MIN_STD, std, 1.0).tolist())


def residual_loss(
    efn: Efn, samples: SampleDataset, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the distance to the teacher's residual plus the error of the estimated deployment, for one batch."""
    rows = rng.integers(len(samples), size=config.batch_size)
    batch = samples.batch(rows, rng, augmentation_rate=config.augmentation_rate)
    features = efn.features(batch.present, batch.recalled)
    output = efn.bounded(efn.distribution(features)[0], batch.recalled)
    distance = residual_distance(samples.to_residual(output, batch.present, rows), batch.target)
    identified = F.mse_loss(efn.identify(features), batch.deployment)
    scalars = {"train": distance.item(), "train identification": identified.item()}
    return distance + config.identification_weight * identified, scalars


def residual_distance(residual: Tensor, target: Tensor) -> Tensor:
    """Return the smooth L1 distance, (), of residuals (B, H, A)."""
    return F.smooth_l1_loss(residual, target, beta=RESIDUAL_SCALE)


@torch.inference_mode()
def validate(efn: Efn, samples: SampleDataset, config: TrainConfig) -> dict[str, float]:
    """Return losses on held-out deployments.

    Returns:
        none: without a residual; volume_<n>: with a bank of n rollouts; identification: of the estimated deployment.
    """
    rng = np.random.default_rng(config.seed)
    rows = samples.draw(MAX_VALIDATED, rng)
    losses = {}
    for size in config.bank_sizes:
        batch = samples.batch(rows, rng, bank_size=size)
        losses["none"] = residual_distance(torch.zeros_like(batch.target), batch.target).item()
        features = efn.features(batch.present, batch.recalled)
        output = efn.bounded(efn.distribution(features)[0], batch.recalled)
        residual = samples.to_residual(output, batch.present, rows)
        losses[f"volume_{size}"] = residual_distance(residual, batch.target).item()
        losses["identification"] = F.mse_loss(efn.identify(features), batch.deployment).item()
    return losses
