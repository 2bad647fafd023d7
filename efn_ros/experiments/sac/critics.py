"""Critics of a residual, which read what the actor reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from efn_ros.efn.batching import Present, Recalled
from efn_ros.efn.checkpoint import load_weights, read_config
from efn_ros.efn.config import EfnConfig
from efn_ros.efn.layers import SetEncoder

MIN_BOUND = 1e-6  # of what critics divide by: a dimension that may not be corrected tells them nothing


CRITICS = "critics.safetensors"


class EfnCritic(SetEncoder):
    """Q of a residual (B, H, A), in the action's units, beside what the actor reads: (B,)."""

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config, extra_inputs=config.horizon * config.action_size)
        self.value = nn.Linear(config.width, 1)

    def forward(self, present: Present, recalled: Recalled, action: Tensor) -> Tensor:
        share = action / self.bound.clamp(min=MIN_BOUND)
        return self.value(self.features(present, recalled, share)).squeeze(-1)


class EfnCritics(nn.Module):
    """n critics that have nothing in common but what they read, so that where they agree they have seen much (B).

    critics(present, recalled, action, members=None) -> (n, B), or those of the critics whose indices are given.
    """

    def __init__(self, config: EfnConfig, n: int = 2) -> None:
        super().__init__()
        self.config, self.n = config, n
        self.members = nn.ModuleList(EfnCritic(config) for _ in range(n))

    def forward(self, present: Present, recalled: Recalled, action: Tensor, members: Tensor | None = None) -> Tensor:
        chosen = range(self.n) if members is None else members.tolist()
        return torch.stack([self.members[i](present, recalled, action) for i in chosen])

    def save_pretrained(self, directory: str | Path) -> None:
        """The weights alone: configuration and actor are those of the directory's `Efn`."""
        save_file(self.state_dict(), Path(directory) / CRITICS)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> EfnCritics:
        """Raises as `Efn.from_pretrained` does."""
        config, path = read_config(directory, weights=CRITICS), Path(directory) / CRITICS
        with safe_open(path, "pt") as file:
            n = len({name.split(".")[1] for name in file.keys()})
        critics = cls(config, n)
        load_weights(critics, path)
        return critics.eval()
