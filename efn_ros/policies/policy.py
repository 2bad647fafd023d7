"""The interface of a frozen policy, and the one place that knows the backbones' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from efn_ros.types import Observation

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PolicySpec:
    """What a policy asks for and gives.

    cameras: names of the images it wants, in order, each uint8 (image_size, image_size, 3). horizon, action_size: H, A
    of its chunk. tokens: (T, D) of V. latent: (L, dz) of Z. instruction_size: E. fingerprint: changes whenever its
    weights do; rollouts remember it.
    """

    name: str
    cameras: tuple[str, ...]
    image_size: int
    proprio_size: int
    horizon: int
    action_size: int
    tokens: tuple[int, int]
    latent: tuple[int, int]
    instruction_size: int
    fingerprint: str


@dataclass(frozen=True)
class PolicyOutput:
    """Equations (1)(2): Z float32 (L, dz), V float32 (T, D) and the base action chunk float32 (H, A)."""

    latent: np.ndarray
    visual: np.ndarray
    action: np.ndarray


class FrozenPolicy(Protocol):
    """A vision-language-action policy whose weights never change; the same input gives the same output."""

    spec: PolicySpec

    def embed_instruction(self, instruction: str) -> np.ndarray:
        """float32 (E,) of unit norm, from the policy's language encoder."""

    def infer(self, observation: Observation) -> PolicyOutput: ...

    def decode(self, latent: np.ndarray, visual: np.ndarray) -> np.ndarray:
        """The frozen decoder, equation (2): (Z, V) -> action chunk (H, A). Raises ValueError for other shapes."""

    def decoder(self) -> nn.Module | None:
        """`decode` in batches: float32 tensors Z (B, L, dz) and V (B, T, D) -> (B, H, A), through which gradients flow
        to Z; its weights take none. None for a policy that has no such thing, which then cannot be taught in latent
        space."""
