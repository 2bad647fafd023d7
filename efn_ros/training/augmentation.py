"""Augmentation of training samples: other arms behind the same motion, and memories of other deployments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from efn_ros.efn.batching import Present
from efn_ros.worlds.deployment import MAX_GAIN_LOG, MAX_OFFSET, MAX_YAW_RAD


@dataclass(frozen=True)
class Arm:
    """How arms answer, one for each row: offset (B, 3), gain and yaw_rad (B,), as in `Deployment`."""

    offset: np.ndarray
    gain: np.ndarray
    yaw_rad: np.ndarray

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Arm:
        """Each shift is there in half of the rows."""
        there, size = rng.random((3, count)) < 0.5, rng.uniform(-1, 1, (5, count))
        return cls(
            offset=MAX_OFFSET * (size[:3] * there[0]).T,
            gain=np.exp(MAX_GAIN_LOG * size[3] * there[1]),
            yaw_rad=MAX_YAW_RAD * size[4] * there[2],
        )

    @classmethod
    def of(cls, coordinates: np.ndarray) -> Arm:
        """From the first five of `Deployment.coordinates`, (B, 5)."""
        offset, gain, yaw = np.split(coordinates.astype(np.float64), (3, 4), axis=1)
        return cls(MAX_OFFSET * offset, np.exp(MAX_GAIN_LOG * gain[:, 0]), MAX_YAW_RAD * yaw[:, 0])

    def after(self, first: Arm) -> Arm:
        """The arm that is told what `first` makes of a command."""
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        x, y, z = first.offset.T
        turned = np.column_stack([cos * x - sin * y, sin * x + cos * y, z])
        offset = self.offset + self.gain[:, None] * turned
        return Arm(offset, self.gain * first.gain, self.yaw_rad + first.yaw_rad)

    def undo(self, actions: np.ndarray) -> np.ndarray:
        """The actions (B, ..., A), float32, whose translation this arm turns into that of `actions`; in [-1, 1]."""
        axes = (slice(None), *(None,) * (actions.ndim - 2))
        x, y, z = np.moveaxis((actions[..., :3] - self.offset[(*axes, slice(None))]) / self.gain[(*axes, None)], -1, 0)
        cos, sin = np.cos(self.yaw_rad)[axes], np.sin(self.yaw_rad)[axes]
        moved = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)
        return np.concatenate([np.clip(moved, -1, 1), actions[..., 3:]], axis=-1).astype(np.float32)


def mislead(present: Present, deployment: Tensor, rng: np.random.Generator, share: float) -> np.ndarray:
    """The row whose memory each is given, (B,): its own, or, in so large a share, that of the row of another deployment
    whose robot is nearest, so that it was recalled for nearly the same."""
    apart = torch.cdist(present.proprio, present.proprio)
    apart[(deployment[:, None] == deployment[None]).all(dim=-1)] = torch.inf
    own = np.arange(len(apart))
    return np.where(rng.random(len(own)) < share, apart.argmin(dim=1).numpy(), own)
