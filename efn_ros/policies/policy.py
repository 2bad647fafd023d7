# SPDX-License-Identifier: MIT
"""The interface of a frozen policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from efn_ros.types import Observation

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PolicySpec:
    """Inputs and outputs of a policy."""

    name: str  # of the backbone
    cameras: tuple[str, ...]  # names of the images that it takes, in this order
    image_size: int  # height and width of each image, pixels
    proprio_size: int  # P
    horizon: int  # H of an action chunk, control steps
    action_size: int  # A
    tokens: tuple[int, int]  # (T, D) of the visual tokens V
    latent: tuple[int, int]  # (L, dz) of the latent action tokens Z
    fingerprint: str  # changes whenever a weight changes; stored with every rollout


@dataclass(frozen=True)
class PolicyOutput:
    """Result of one inference, float32."""

    latent: np.ndarray  # Z, (L, dz)
    visual: np.ndarray  # V, (T, D)
    action: np.ndarray  # base action chunk, (H, A)


class FrozenPolicy(Protocol):
    """A vision-language-action policy whose weights never change; the same input gives the same output."""

    spec: PolicySpec

    def embed_instruction(self, instruction: str) -> np.ndarray:
        """Return the embedding of an instruction by the policy's language encoder, float32 (E,) of unit norm."""
        ...

    def infer(self, observation: Observation) -> PolicyOutput:
        """Return visual tokens, latent action tokens and the base action chunk for an observation."""
        ...

    def decode(self, latent: np.ndarray, visual: np.ndarray) -> np.ndarray:
        """Return the action chunk (H, A) that the frozen decoder makes of Z and V.

        Raises:
            ValueError: The tokens have another shape than `spec` gives.
        """
        ...

    def decoder(self) -> nn.Module | None:
        """Return `decode` in batches: float32 tensors Z (B, L, dz) and V (B, T, D) to actions (B, H, A).

        Gradients flow to Z; the weights are frozen. None for a policy whose decoder is not differentiable.
        """
        ...
