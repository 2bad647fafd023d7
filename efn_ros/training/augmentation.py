# SPDX-License-Identifier: MIT
"""Augmentation of training samples: the same motion by other arms, and memories of other deployments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from efn_ros.efn.batching import Present
from efn_ros.worlds.deployment import MAX_GAIN_LOG, MAX_OFFSET, MAX_YAW_RAD, arm_coordinates

# Columns that a shift of the arm changes. The base action is among them: it would otherwise reveal the shift.
COMMANDS = ("executed", "base", "executed_before")
ARM_COORDINATES = 5  # the first coordinates of a deployment, those of its arm


@dataclass(frozen=True)
class Arm:
    """How B arms respond to commands, as in `Deployment`."""

    offset: np.ndarray  # (B, 3)
    gain: np.ndarray  # (B,)
    yaw_rad: np.ndarray  # (B,)

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Arm:
        """Draw arms at random; each shift is present in half of the rows."""
        present, size = rng.random((3, count)) < 0.5, rng.uniform(-1, 1, (5, count))
        return cls(
            offset=MAX_OFFSET * (size[:3] * present[0]).T,
            gain=np.exp(MAX_GAIN_LOG * size[3] * present[1]),
            yaw_rad=MAX_YAW_RAD * size[4] * present[2],
        )

    @classmethod
    def from_coordinates(cls, coordinates: np.ndarray) -> Arm:
        """Return the arms of the first ARM_COORDINATES of `Deployment.coordinates`, (B, 5)."""
        offset, gain, yaw = np.split(coordinates.astype(np.float64), (3, 4), axis=1)
        return cls(MAX_OFFSET * offset, np.exp(MAX_GAIN_LOG * gain[:, 0]), MAX_YAW_RAD * yaw[:, 0])

    def after(self, first: Arm) -> Arm:
        """Return the composition: the arm that executes the output of `first` as its command."""
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        x, y, z = first.offset.T
        turned = np.column_stack([cos * x - sin * y, sin * x + cos * y, z])
        offset = self.offset + self.gain[:, None] * turned
        return Arm(offset, self.gain * first.gain, self.yaw_rad + first.yaw_rad)

    def inverse(self, actions: np.ndarray) -> np.ndarray:
        """Return commands (B, ..., A), float32 in [-1, 1], whose translation this arm turns into that of `actions`."""
        axes = (slice(None), *(None,) * (actions.ndim - 2))
        x, y, z = np.moveaxis((actions[..., :3] - self.offset[(*axes, slice(None))]) / self.gain[(*axes, None)], -1, 0)
        cos, sin = np.cos(self.yaw_rad)[axes], np.sin(self.yaw_rad)[axes]
        moved = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)
        return np.concatenate([np.clip(moved, -1, 1), actions[..., 3:]], axis=-1).astype(np.float32)


def augment_arms(
    memory: dict[str, np.ndarray],
    samples: dict[str, np.ndarray],
    rows: np.ndarray,
    bound: tuple[float, ...],
    rng: np.random.Generator,
) -> None:
    """Change rows of a batch in place as if another arm had executed the same motion.

    A random shift T is applied before that of the deployment, so the command that causes the motion of u becomes the
    inverse of T applied to u. Every sample thus serves for as many arms as are drawn.

    Args:
        memory: Columns of recalled and recent steps.
        samples: Columns of the samples: base, target and deployment.
        rows: Rows to change.
        bound: Largest residual, (A,).
        rng: Draws the shifts.
    """
    arm = Arm.draw(len(rows), rng)
    for name in (n for n in memory if n.removeprefix("recent_") in COMMANDS):
        commands = memory[name][rows]
        memory[name][rows] = arm.inverse(commands) * commands.any(axis=(-2, -1), keepdims=True)  # zero stays zero
    base, target = samples["base"][rows], samples["target"][rows]
    limit = np.array(bound, np.float32)
    samples["target"][rows] = np.clip(arm.inverse(base + target) - base, -limit, limit)
    whole = Arm.from_coordinates(samples["deployment"][rows, :ARM_COORDINATES]).after(arm)
    samples["deployment"][rows, :ARM_COORDINATES] = arm_coordinates(whole.offset, whole.gain, whole.yaw_rad)


def negative_memories(present: Present, deployment: Tensor, rng: np.random.Generator, fraction: float) -> np.ndarray:
    """Return for each row of a batch the row whose memory it gets, int (B,).

    In a fraction of the rows, the negative samples, it is the row of another deployment with the most similar
    proprioception, whose memory was recalled for nearly the same state. In the others it is the row itself.
    """
    distance = torch.cdist(present.proprio, present.proprio)
    distance[(deployment[:, None] == deployment[None]).all(dim=-1)] = torch.inf
    own = np.arange(len(distance))
    return np.where(rng.random(len(own)) < fraction, distance.argmin(dim=1).numpy(), own)
