# SPDX-License-Identifier: MIT
"""The network whose output is a change of the latent action tokens, dZ = bound * tanh(u)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efn_ros.efn.actor import Efn
from efn_ros.efn.config import EfnConfig


@dataclass(frozen=True)
class LatentEfnConfig(EfnConfig):
    """Sizes of a network that changes latent tokens.

    Raises:
        ValueError: A bound is negative or not finite, or there is not one for each channel.
    """

    latent_bound: tuple[float, ...] = ()  # largest change of each channel, (dz,), in the units of Z

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.latent_bound) != self.latent[1]:
            raise ValueError(
                f"latent_bound has {len(self.latent_bound)} entries, but a latent token has {self.latent[1]}"
            )
        if not all(0 <= bound < math.inf for bound in self.latent_bound):
            raise ValueError(f"latent_bound is {self.latent_bound}; each entry must be finite and at least 0")

    @property
    def head_shape(self) -> tuple[int, int]:
        """Shape of the actor's output: a change of the latent tokens (L, dz)."""
        return self.latent

    @property
    def head_bound(self) -> tuple[float, ...]:
        """Largest change of each channel of Z."""
        return self.latent_bound


class LatentEfn(Efn):
    """An actor whose output is a change of Z, (B, L, dz).

    Source: appendix B.
    """

    config_type = LatentEfnConfig
