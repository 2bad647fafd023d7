"""The Experience Feedback Network (EFN): the present step and what was recalled go in, a residual comes out.

The actor of appendix B at any size: the present step attends to the recalled ones through cross-attention layers, and a
head gives mean and spread of a residual over the whole chunk, or of a change of the latent action tokens, squashed by
tanh and bounded for each dimension. Recalled steps are a set: their order and number do not matter, and without any the
residual is exactly zero. Critics read the same, and the residual with the present step.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from efn_ros.efn.batching import Present, Recalled, Recent
from efn_ros.efn.checkpoint import _load, read_config
from efn_ros.efn.config import CONFIG, LOG_STD_RANGE, WEIGHTS, EfnConfig
from efn_ros.efn.layers import SetEncoder
from efn_ros.efn.trust import Trust


class Efn(SetEncoder):
    """The actor. `residual` is what a robot gets, in latent space once it is decoded; `forward` what training needs.

    Where training knows the deployment, `identify` learns to tell it, which gives the features that the residual needs.
    """

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config)
        self.identify = nn.Linear(config.width, config.identified)
        self.head = nn.Linear(config.width, 2 * math.prod(config.head_shape))
        bound = torch.tensor(config.latent_bound or config.bound, dtype=torch.float32)
        self.register_buffer("head_bound", bound, persistent=False)
        if config.recent:
            motion = 2 * config.horizon * config.action_size + 3 * len(config.proprio_mean)
            self.trust = Trust(motion, config.codes, config.identified, config.width)
        nn.init.zeros_(self.head.weight)  # training begins at the base policy
        nn.init.zeros_(self.head.bias)

    def forward(self, present: Present, recalled: Recalled) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the residual before tanh, each (B, H, A); in latent space (B, L, dz)."""
        return self.actor(self.features(present, recalled))

    def actor(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.head(features).chunk(2, dim=-1)
        shape = self.config.head_shape
        return mean.unflatten(-1, shape), log_std.clamp(*LOG_STD_RANGE).unflatten(-1, shape)

    def residual(self, present: Present, recalled: Recalled) -> Tensor:
        """tanh of the mean, bounded (section 5): (B, H, A), or in latent space the change of Z, (B, L, dz); exactly
        zero where one that remembers recalled nothing."""
        return self.bounded(self(present, recalled)[0], recalled)

    def bounded(self, mean: Tensor, recalled: Recalled) -> Tensor:
        """The residual, or change of Z, of an actor's mean."""
        active = recalled.there.any(dim=1) | (not self.config.remembers)
        return self.head_bound * torch.tanh(mean) * active[:, None, None]

    def trusts(self, present: Present, recalled: Recalled, recent: Recent) -> tuple[Tensor, list[Tensor]]:
        """Trust in what was recalled, (B,) in [0, 1], and what `Trust` tells of the deployment."""
        code = self.code(present.sketch)
        return self.trust(
            self.motion(recalled), recalled.code, recalled.there, self.motion(recent), recent.happened, code
        )

    def save_pretrained(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        save_file(self.state_dict(), directory / WEIGHTS)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Efn:
        """Raises FileNotFoundError where there is no checkpoint, ValueError, naming it, for one that does not fit."""
        efn = cls(read_config(directory))
        _load(efn, Path(directory) / WEIGHTS)
        return efn.eval()
