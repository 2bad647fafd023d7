"""Sizes of the Experience Feedback Network: those that the frozen policy sets, and its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # the files of a checkpoint
PACKAGED = Path(__file__).resolve().parent / "checkpoints"  # networks that come with the package

SIZES = {
    "small": {"width": 128, "heads": 4, "layers": 2, "feedforward": 256},
    "paper": {"width": 1024, "heads": 16, "layers": 2, "feedforward": 4096},  # appendix B
}


@dataclass(frozen=True)
class EfnConfig:
    """Sizes and statistics of one network.

    Raises:
        ValueError: A field does not fit the others; the message names it.
    """

    horizon: int  # H of an action chunk
    action_size: int  # A
    latent: tuple[int, int]  # (L, dz) of the latent action tokens Z
    sketch: tuple[int, int]  # (T, d) of the visual tokens' sketch
    bound: tuple[float, ...]  # largest residual, (A,), in the action's units
    proprio_mean: tuple[float, ...]  # (P,) of proprioception, where it was trained
    proprio_std: tuple[float, ...]  # (P,) likewise
    motion_std: tuple[float, ...]  # (P,) of the change of proprioception over one decision
    deployment_size: int = 12  # coordinates of a deployment that the network estimates in training
    code_size: int = 0  # numbers kept of what a recalled step saw; 0 for none
    recent_steps: int = 0  # last decisions of the episode that `Trust` reads; 0 trusts memory blindly
    use_memory: bool = True  # False: blind to what was recalled, as a no-memory baseline
    token_channels: int = 16  # channels of a projected token that are read
    width: int = 128
    heads: int = 4
    layers: int = 2
    feedforward: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON knows no tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if len(self.bound) != self.action_size:
            raise ValueError(f"bound has {len(self.bound)} entries, but an action has {self.action_size}")

    @property
    def head_shape(self) -> tuple[int, int]:
        """Shape of the actor's output: a residual chunk (H, A)."""
        return self.horizon, self.action_size

    @property
    def head_bound(self) -> tuple[float, ...]:
        """Largest output of the actor's head, one entry for each of its last axis."""
        return self.bound

    @property
    def motion_size(self) -> int:
        """Numbers that describe how the robot moved in one step."""
        return 2 * self.horizon * self.action_size + 3 * len(self.proprio_mean)

    @property
    def head_outputs(self) -> int:
        """Numbers of one output of the head."""
        return math.prod(self.head_shape)
