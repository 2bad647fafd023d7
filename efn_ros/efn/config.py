"""Sizes of the Experience Feedback Network: those that the frozen policy sets, and its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

SIZES = {
    "small": {"width": 128, "heads": 4, "layers": 2, "feedforward": 256},
    "paper": {"width": 1024, "heads": 16, "layers": 2, "feedforward": 4096},  # appendix B
}


ACTION, LATENT = SPACES = ("action", "latent")  # what the head speaks of


LOG_STD_RANGE = (-5.0, 2.0)


CONFIG, WEIGHTS = "config.json", "model.safetensors"  # the files of a checkpoint
PACKAGED = Path(__file__).resolve().parent / "checkpoints"  # networks that come with the package


@dataclass(frozen=True)
class EfnConfig:
    """Sizes that the frozen policy sets, and the network's own.

    horizon, action_size: H, A of a chunk. latent: (L, dz) of Z. sketch: (T, d) of the visual tokens' sketch, of which
    `channels` a token are read. bound: (A,) largest residual, in the action's units. space: "action", the head says a
    residual on the action, or "latent", a change of Z by at most latent_bound, (dz,), in the units of Z, of which the
    frozen decoder makes a residual (`latent_residual`). proprio_mean, proprio_std, motion_std: (P,) of proprioception
    and of its change over one decision, where it learned. identified: how many coordinates of the deployment it tells.
    codes: how many numbers it keeps of what a recalled step saw, 0 for none. recent: so many of the episode's last
    decisions tell whether memory fits (`Trust`), 0 for blind trust. remembers: False makes it blind to what was
    recalled, for comparison. Raises ValueError, naming the field, for what does not fit.
    """

    horizon: int
    action_size: int
    latent: tuple[int, int]
    sketch: tuple[int, int]
    bound: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]
    motion_std: tuple[float, ...]
    identified: int = 12
    codes: int = 0
    recent: int = 0
    remembers: bool = True
    channels: int = 16
    width: int = 128
    heads: int = 4
    layers: int = 2
    feedforward: int = 256
    dropout: float = 0.0
    space: str = ACTION
    latent_bound: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON knows no tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if len(self.bound) != self.action_size:
            raise ValueError(f"bound has {len(self.bound)} entries, but an action has {self.action_size}")
        if self.space not in SPACES:
            raise ValueError(f"space is {self.space!r}; there are {', '.join(map(repr, SPACES))}")
        channels = self.latent[1] if self.space == LATENT else 0
        if len(self.latent_bound) != channels:
            raise ValueError(
                f"latent_bound has {len(self.latent_bound)} entries; space {self.space!r} asks for {channels}"
            )
        if not all(0 <= bound < math.inf for bound in self.latent_bound):
            raise ValueError(f"latent_bound is {self.latent_bound}; each entry must be finite and at least 0")

    @property
    def head_shape(self) -> tuple[int, int]:
        """Shape of what the head says: a chunk (H, A), or latent tokens (L, dz)."""
        return self.latent if self.space == LATENT else (self.horizon, self.action_size)
