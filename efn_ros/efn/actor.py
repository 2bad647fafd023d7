"""The Experience Feedback Network (EFN): the present step and recalled steps go in, a residual comes out.

The actor of appendix B at any size: the present step attends to the recalled ones through cross-attention layers, and a
head gives mean and spread of a residual over the whole chunk, squashed by tanh and bounded for each dimension. Without
any recalled step the residual is exactly zero.
"""

from __future__ import annotations

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
    """The actor. `residual` is what a robot gets; `forward` what training needs."""

    config_type = EfnConfig
    head_bound: Tensor

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config)
        # In training it estimates the deployment, which gives the features that the residual needs.
        self.identify = nn.Linear(config.width, config.deployment_size)
        self.head = nn.Linear(config.width, 2 * config.head_outputs)
        self.register_buffer("head_bound", torch.tensor(config.head_bound, dtype=torch.float32), persistent=False)
        if config.recent_steps:
            self.trust = Trust(config.motion_size, config.code_size, config.deployment_size, config.width)
        nn.init.zeros_(self.head.weight)  # training begins at the base policy
        nn.init.zeros_(self.head.bias)

    def forward(self, present: Present, recalled: Recalled) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of the output before tanh, each (B, *head_shape)."""
        return self.distribution(self.features(present, recalled))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, each (B, *head_shape), out of features (B, width)."""
        mean, log_std = self.head(features).chunk(2, dim=-1)
        shape = self.config.head_shape
        return mean.unflatten(-1, shape), log_std.clamp(*LOG_STD_RANGE).unflatten(-1, shape)

    def residual(self, present: Present, recalled: Recalled) -> Tensor:
        """Return tanh of the mean, bounded, (B, *head_shape); zero where a network with memory recalled nothing.

        Source: equation (7) and section 4.4, the deterministic mean.
        """
        return self.bounded(self(present, recalled)[0], recalled)

    def bounded(self, mean: Tensor, recalled: Recalled) -> Tensor:
        """Return the bounded output of a mean before tanh."""
        active = recalled.mask.any(dim=1) | (not self.config.use_memory)
        return self.head_bound * torch.tanh(mean) * active[:, None, None]

    def estimate_trust(self, present: Present, recalled: Recalled, recent: Recent) -> tuple[Tensor, list[Tensor]]:
        """Return trust in what was recalled, (B,) in [0, 1], and the estimates of the deployment of `Trust`."""
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
            FileNotFoundError: There is no checkpoint in the directory.
            ValueError: It does not fit; the message names the file and what differs.
        """
        efn = cls(read_config(directory, cls.config_type))
        load_weights(efn, Path(directory) / WEIGHTS)
        return efn.eval()
