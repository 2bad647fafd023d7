# SPDX-License-Identifier: MIT
"""Configuration of the Experience Feedback Network."""

from __future__ import annotations

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

    horizon: int  # H of an action chunk, control steps
    action_size: int  # A
    latent: tuple[int, int]  # (L, dz) of the latent action tokens Z
    sketch: tuple[int, int]  # (T, d) of the sketch of the visual tokens
    bound: tuple[float, ...]  # largest residual, (A,), in the action's units
    proprio_mean: tuple[float, ...]  # (P,), of proprioception in the training data
    proprio_std: tuple[float, ...]  # (P,), of proprioception in the training data
    motion_std: tuple[float, ...]  # (P,), of the change of proprioception over one decision
    deployment_size: int = 12  # coordinates of a deployment that the network estimates in training
    code_size: int = 0  # numbers of an image code of a recalled step; 0: recalled images are not used
    recent_steps: int = 0  # last decisions of the episode, input of `Trust`; 0: no trust is estimated
    use_memory: bool = True  # False: recalled steps are ignored, as a no-memory baseline
    token_channels: int = 16  # to which each token of the sketch is reduced
    width: int = 128  # of the features
    heads: int = 4  # of attention
    layers: int = 2  # of cross-attention
    feedforward: int = 256  # width of the feedforward networks
    dropout: float = 0.0  # in the feedforward networks

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON has lists instead of tuples
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
        """Largest output of the actor's head, for each entry of its last axis."""
        return self.bound

    @property
    def motion_size(self) -> int:
        """Numbers that describe the robot's motion in one step."""
        return 2 * self.horizon * self.action_size + 3 * len(self.proprio_mean)
