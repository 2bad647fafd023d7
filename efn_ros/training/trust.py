"""Training of trust: whether what was recalled is of the deployment that the episode shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Recalled
from efn_ros.training.augmentation import negative_memories
from efn_ros.training.config import TrainConfig
from efn_ros.training.dataset import SampleDataset

MAX_VALIDATED = 1024  # samples in one validation


def trust_loss(
    efn: Efn, samples: SampleDataset, eligible: np.ndarray, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the cross entropy of whether the memory is right, plus the error of the estimated deployments.

    eligible: indices of samples whose memory was seen by their own cameras.
    """
    rows = rng.choice(eligible, config.batch_size)
    batch = samples.batch(rows, rng, augmentation_rate=config.augmentation_rate, recent_steps=config.recent_steps)
    if batch.recent is None:
        raise ValueError("trust reads recent decisions, but recent_steps is 0")
    other = negative_memories(batch.present, batch.deployment, rng, config.negative_fraction)
    trust, estimates = efn.estimate_trust(batch.present, rows_of(batch.recalled, other), batch.recent)
    right = torch.from_numpy(other == np.arange(len(other))).float()
    judged = F.binary_cross_entropy(trust, right)
    truth = [batch.deployment[other], batch.deployment] * 2
    identified = sum(F.mse_loss(estimate, t) for estimate, t in zip(estimates, truth, strict=True))
    return judged + config.trust_identification_weight * identified, {"train": judged.item()}


@torch.inference_mode()
def validate_trust(
    efn: Efn, samples: SampleDataset, config: TrainConfig, distance: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float]:
    """Return losses with blind and with learned trust, and its mean, at the largest bank size.

    Each where the memory is right and, if there is another deployment, where it is that one's.
    """
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(samples), min(len(samples), MAX_VALIDATED), replace=False)
    batch = samples.batch(rows, rng, bank_size=max(config.bank_sizes), recent_steps=config.recent_steps)
    if batch.recent is None:
        raise ValueError("trust reads recent decisions, but recent_steps is 0")
    losses = {}
    for name, fraction in {"right": 0.0, **({"wrong": 1.0} if len(samples.parts) > 1 else {})}.items():
        memory = rows_of(batch.recalled, negative_memories(batch.present, batch.deployment, rng, fraction))
        residual = samples.to_residual(efn.residual(batch.present, memory), batch.present, rows)
        trust, _ = efn.estimate_trust(batch.present, memory, batch.recent)
        losses[f"blind_{name}"] = distance(residual, batch.target).item()
        losses[f"trusting_{name}"] = distance(trust[:, None, None] * residual, batch.target).item()
        losses[f"trust_{name}"] = trust.mean().item()
    return losses


def rows_of(recalled: Recalled, rows: np.ndarray) -> Recalled:
    """Return the memories of some rows of a batch."""
    return Recalled(*(getattr(recalled, field.name)[rows] for field in fields(Recalled)))
