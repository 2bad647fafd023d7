# SPDX-License-Identifier: MIT
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

CRITICS = "critics.safetensors"  # the file beside those of an `Efn`
MIN_BOUND = 1e-6  # that a residual is divided by; a dimension with a bound of 0 is never corrected


class Critics(nn.Module):
    """An ensemble of Q-functions.

    critics(*observation, action, members=None) -> values (n, B), or those of the critics whose indices are given.
    """

    n: int  # critics

    def disagreement(self, *inputs: object) -> Tensor:
        """Return the standard deviation over all critics, (B,), in units of the return: high where they saw little."""
        return self(*inputs).std(dim=0, correction=0)


class EfnCritic(SetEncoder):
    """Q of a residual in the context that the actor reads.

    Appendix B pools the visual tokens by multi-latent attention and projects latents and residual to 512 dimensions.
    This one is the actor's own encoder, with the residual as a further input of the present step.
    """

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config, extra_inputs=config.horizon * config.action_size)
        self.value = nn.Linear(config.width, 1)

    def forward(self, present: Present, recalled: Recalled, action: Tensor) -> Tensor:
        """Return values (B,) of residuals (B, H, A), in the action's units."""
        share = action / self.bound.clamp(min=MIN_BOUND)
        return self.value(self.features(present, recalled, share)).squeeze(-1)


class EfnCritics(Critics):
    """Critics that share no weights, so that they agree only where they were trained on similar decisions."""

    def __init__(self, config: EfnConfig, n: int = 2) -> None:
        super().__init__()
        self.config, self.n = config, n
        self.members = nn.ModuleList(EfnCritic(config) for _ in range(n))

    def forward(self, present: Present, recalled: Recalled, action: Tensor, members: Tensor | None = None) -> Tensor:
        """Return values (n, B) of residuals (B, H, A), or those of the critics whose indices are given."""
        chosen = range(self.n) if members is None else members.tolist()
        return torch.stack([self.members[i](present, recalled, action) for i in chosen])

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the weights beside an `Efn`, which has the same configuration."""
        save_file(self.state_dict(), Path(directory) / CRITICS)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> EfnCritics:
        """Load the critics of a checkpoint, in evaluation mode.

        Raises:
            FileNotFoundError: The directory holds no checkpoint with critics.
            ValueError: They do not fit their configuration; the message names the file and what differs.
        """
        config, path = read_config(directory, weights=CRITICS), Path(directory) / CRITICS
        with safe_open(path, "pt") as file:
            n = len({name.split(".")[1] for name in file.keys()})
        critics = cls(config, n)
        load_weights(critics, path)
        return critics.eval()
