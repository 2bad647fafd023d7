# SPDX-License-Identifier: MIT
"""One update of the network in use, by the newest rollouts; it may be interrupted.

Self-imitation learning (arXiv:1806.05635), with whole successes in place of returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from efn_ros.efn.actor import Efn
from efn_ros.online.config import LearnConfig
from efn_ros.training.bank_dataset import MIN_BOUND, BankDataset
from efn_ros.training.loop import LoopConfig, TrainingLoop
from efn_ros.training.state import read_state

HUBER_BETA = 0.1  # in units of the bound, where the loss turns from quadratic to linear
WEIGHT_DECAY = 0.01


def update(
    efn: Efn,
    samples: BankDataset,
    config: LearnConfig,
    gain: float,
    seed: tuple[int, ...],
    *,
    state: Path,
    job: dict[str, Any],
    pause: Callable[[], None] = lambda: None,
    report: Callable[[str], None] = lambda text: None,
) -> list[float]:
    """Train a network in place.

    Args:
        efn: The network in use, which is changed.
        samples: To train on.
        config: Settings.
        gain: Of the corrector.
        seed: Of every random draw.
        state: File of the state, written after every epoch. An unfinished training of the same `job` is resumed, with
            the same result.
        job: Everything that the result depends on.
        pause: Called between two pieces of work; may raise to interrupt.
        report: Called with the progress in words.

    Returns:
        The mean loss of each epoch.

    Source: arXiv:1806.05635.
    """
    bound = (efn.bound * gain).clamp(min=MIN_BOUND)
    weight = samples.weights(config.base_weight)
    weight /= weight.mean() or 1.0
    before = samples.residuals(efn, gain, config.batch_size, pause)
    batches = math.ceil(len(samples) / config.batch_size)

    @lru_cache(maxsize=1)
    def shuffled(epoch: int) -> np.ndarray:
        return np.random.default_rng([*seed, epoch]).permutation(len(samples))

    def loss(number: int, _: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        epoch, index = divmod(number, batches)
        rows = shuffled(epoch)[index * config.batch_size :][: config.batch_size]
        residual = gain * efn.train().residual(*samples.batch(rows))
        target = torch.from_numpy(samples.target[rows]).clamp(-bound, bound)  # the network's output is bounded
        error = F.smooth_l1_loss(residual / bound, target / bound, beta=HUBER_BETA, reduction="none").mean((1, 2))
        change = ((residual - torch.from_numpy(before[rows])) / bound).square().mean()
        return (torch.from_numpy(weight[rows]) * error).mean() + config.proximal_weight * change, {}

    def saved() -> None:
        report(f"learning: epoch {len(loop.losses)} of {config.epochs}, loss {loop.losses[-1]:.4f}")

    if unfinished_job(state) != job:
        state.unlink(missing_ok=True)
    how = LoopConfig(config.epochs * batches, lambda _: config.learning_rate, WEIGHT_DECAY, seed, batches, job)
    loop = TrainingLoop(dict(efn.named_parameters()), how, state, pause=pause, quiet=True)
    loop.run(loss, saved=saved)
    efn.eval()
    return loop.losses


def unfinished_job(state: Path) -> dict[str, Any]:
    """Return the `job` of an interrupted training; empty if there is none.

    Raises:
        ValueError: The file is damaged.
    """
    return read_state(state)[1]["settings"] if state.exists() else {}
