# SPDX-License-Identifier: MIT
"""Training of trust: whether the recalled steps are of the same deployment as the recent decisions of the episode."""

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
from efn_ros.training.dataset import MAX_VALIDATED, SampleDataset


def trust_loss(
    efn: Efn, samples: SampleDataset, eligible: np.ndarray, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the cross entropy of whether the memory is a row's own, plus the error of the estimated deployments.

    Args:
        efn: The network, of which trust is trained.
        samples: To train on.
        eligible: Indices of samples whose bank was observed by the same cameras.
        config: Settings.
        rng: Draws the batch.

    Returns:
        Loss, and scalars to log.
    """
    rows = rng.choice(eligible, config.batch_size)
    batch = samples.batch(rows, rng, augmentation_rate=config.augmentation_rate, recent_steps=config.recent_steps)
    if batch.recent is None:
        raise ValueError("recent_steps is 0, but trust reads recent decisions; set it to at least 1")
    other = negative_memories(batch.present, batch.deployment, rng, config.negative_fraction)
    trust, estimates = efn.estimate_trust(batch.present, rows_of(batch.recalled, other), batch.recent)
    own = torch.from_numpy(other == np.arange(len(other))).float()
    classified = F.binary_cross_entropy(trust, own)
    truth = [batch.deployment[other], batch.deployment] * 2
    identified = sum(F.mse_loss(estimate, t) for estimate, t in zip(estimates, truth, strict=True))
    return classified + config.trust_identification_weight * identified, {"train": classified.item()}


@torch.inference_mode()
def validate_trust(
    efn: Efn, samples: SampleDataset, config: TrainConfig, distance: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float]:
    """Return losses at the largest bank size.

    Returns:
        blind_<memory>: without trust; weighted_<memory>: with the residual weighted by trust; trust_<memory>: mean
        trust. The memory is `own` or, where there is a second deployment, `negative`: of another one.
    """
    rng = np.random.default_rng(config.seed)
    rows = samples.draw(MAX_VALIDATED, rng)
    batch = samples.batch(rows, rng, bank_size=max(config.bank_sizes), recent_steps=config.recent_steps)
    if batch.recent is None:
        raise ValueError("recent_steps is 0, but trust reads recent decisions; set it to at least 1")
    losses = {}
    for name, fraction in {"own": 0.0, **({"negative": 1.0} if len(samples.parts) > 1 else {})}.items():
        memory = rows_of(batch.recalled, negative_memories(batch.present, batch.deployment, rng, fraction))
        residual = samples.to_residual(efn.residual(batch.present, memory), batch.present, rows)
        trust, _ = efn.estimate_trust(batch.present, memory, batch.recent)
        losses[f"blind_{name}"] = distance(residual, batch.target).item()
        losses[f"weighted_{name}"] = distance(trust[:, None, None] * residual, batch.target).item()
        losses[f"trust_{name}"] = trust.mean().item()
    return losses


def rows_of(recalled: Recalled, rows: np.ndarray) -> Recalled:
    """Return the recalled steps of some rows of a batch."""
    return Recalled(*(getattr(recalled, field.name)[rows] for field in fields(Recalled)))
