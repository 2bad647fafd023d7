# SPDX-License-Identifier: MIT
"""The squashed Gaussian policy of soft actor-critic: its density, its temperature and how it starts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efn_ros.efn.actor import LOG_STD_RANGE


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh(u) of u = mean + std * noise, (B, ...), and its log-density, (B,).

    It is stable for any u, since log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)).

    Args:
        mean: Before tanh, (B, ...).
        log_std: Likewise, (B, ...).
        noise: Of a standard normal distribution, (B, ...).
    """
    u = torch.addcmul(mean, log_std.exp(), noise)
    density = 2 * (u + F.softplus(-2 * u)) - 0.5 * noise.square() - log_std
    constant = mean[0].numel() * (2 * math.log(2) + 0.5 * math.log(2 * math.pi))
    return torch.tanh(u), density.flatten(1).sum(dim=1) - constant


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: float) -> Tensor:
    """Return log alpha (entropy - target), (): alpha rises while the entropy is below its target.

    Source: arXiv:1812.05905, its equation 18, with log alpha for alpha as in its code.
    """
    return log_temperature * (entropy - target)


def phase_in(step: int, start: int, length: int) -> float:
    """Return xi at a step: 0 up to `start`, 1 after `length` more, linear between."""
    return min(max((step - start) / length, 0.0), 1.0) if length else float(step >= start)


@torch.no_grad()
def start_nearly_deterministic(head: nn.Linear, log_std: float = -4.0) -> None:
    """Set the initial spread of an actor, so that exploration does not destroy the base policy.

    Args:
        head: Last layer of the actor; its second half gives log_std.
        log_std: Initial value.

    Raises:
        ValueError: log_std is not inside `LOG_STD_RANGE`, at whose ends the gradient is zero.
    """
    low, high = LOG_STD_RANGE
    if not low < log_std < high:
        raise ValueError(f"log_std is {log_std}; it must be between {low} and {high}, both excluded")
    half = head.out_features // 2
    head.weight[half:] = 0
    head.bias[half:] = log_std
