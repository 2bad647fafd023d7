# SPDX-License-Identifier: MIT
"""The actor of the Experience Feedback Network (EFN).

It is the actor of appendix B at any size. The present step attends to the recalled steps through cross-attention
layers. A head gives mean and standard deviation of a residual over the whole chunk, which tanh and a bound for each
dimension limit. Without any recalled step the residual is exactly zero.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from efn_ros.efn.batching import Present, Recalled, Recent
from efn_ros.efn.checkpoint import load_weights, read_config, save_checkpoint
from efn_ros.efn.config import WEIGHTS, EfnConfig
from efn_ros.efn.layers import SetEncoder
from efn_ros.efn.trust import Trust

LOG_STD_RANGE = (-5.0, 2.0)


class Efn(SetEncoder):
    """The actor; inference calls `residual`, training calls `forward`."""

    config_type = EfnConfig
    head_bound: Tensor

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config)
        # An auxiliary loss: features that identify the deployment are those that the residual needs.
        self.identify = nn.Linear(config.width, config.deployment_size)
        self.head = nn.Linear(config.width, 2 * math.prod(config.head_shape))
        self.register_buffer("head_bound", torch.tensor(config.head_bound, dtype=torch.float32), persistent=False)
        if config.recent_steps:
            self.trust = Trust(config.motion_size, config.code_size, config.deployment_size, config.width)
        nn.init.zeros_(self.head.weight)  # training begins at the base policy
        nn.init.zeros_(self.head.bias)

    def forward(self, present: Present, recalled: Recalled) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of the output before tanh, each (B, *head_shape)."""
        return self.distribution(self.features(present, recalled))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, each (B, *head_shape), from features (B, width)."""
        mean, log_std = self.head(features).chunk(2, dim=-1)
        shape = self.config.head_shape
        return mean.unflatten(-1, shape), log_std.clamp(*LOG_STD_RANGE).unflatten(-1, shape)

    def residual(self, present: Present, recalled: Recalled) -> Tensor:
        """Return the bounded tanh of the mean, (B, *head_shape); zero if the network uses memory and has none.

        Source: section 4.4.
        """
        return self.bounded(self(present, recalled)[0], recalled)

    def bounded(self, mean: Tensor, recalled: Recalled) -> Tensor:
        """Return the output of the head, (B, *head_shape), for a mean before tanh."""
        active = recalled.mask.any(dim=1) | (not self.config.use_memory)
        return self.head_bound * torch.tanh(mean) * active[:, None, None]

    def estimate_trust(self, present: Present, recalled: Recalled, recent: Recent) -> tuple[Tensor, list[Tensor]]:
        """Return the trust in the recalled steps, (B,) in [0, 1], and the estimates of `Trust`."""
        return self.trust(
            self.motion(recalled),
            recalled.code,
            recalled.mask,
            self.motion(recent),
            recent.mask,
            self.code(present.sketch),
        )

    def save_pretrained(self, directory: str | Path) -> None:
        """Write configuration and weights to a directory."""
        save_checkpoint(self, self.config, Path(directory))

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Efn:
        """Load a checkpoint, in evaluation mode.

        Raises:
            FileNotFoundError: The directory has no checkpoint.
            ValueError: The checkpoint does not fit; the message names the file and the difference.
        """
        efn = cls(read_config(directory, cls.config_type))
        load_weights(efn, Path(directory) / WEIGHTS)
        return efn.eval()
