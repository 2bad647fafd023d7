# SPDX-License-Identifier: MIT
"""Steps as tensors, the inputs of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from efn_ros.efn.config import EfnConfig
from efn_ros.types import Experiences, Outcome, PastDecision, PolicyStep

# Fields of a recalled or recent step that describe the robot's motion.
MOTION = ("executed", "proprio", "proprio_next", "executed_before", "proprio_before")


@dataclass(frozen=True)
class Present:
    """A batch of B steps to correct, float32."""

    latent: Tensor  # (B, L, dz)
    sketch: Tensor  # (B, T, d)
    proprio: Tensor  # (B, P)
    base: Tensor  # (B, H, A)


@dataclass(frozen=True)
class Recalled:
    """k recalled steps for each of B steps, float32."""

    executed: Tensor  # (B, k, H, A)
    base: Tensor  # (B, k, H, A)
    proprio: Tensor  # (B, k, P)
    proprio_next: Tensor  # (B, k, P)
    executed_before: Tensor  # (B, k, H, A)
    proprio_before: Tensor  # (B, k, P)
    latent: Tensor  # (B, k, dz), the mean of Z
    code: Tensor  # (B, k, code_size), image codes; zero where unknown
    success: Tensor  # (B, k), 1 if the episode succeeded
    similarity: Tensor  # (B, k), in [0, 1]
    mask: Tensor  # bool (B, k), False for padding


@dataclass(frozen=True)
class Recent:
    """The last n decisions of the episode before each of B steps, float32."""

    executed: Tensor  # (B, n, H, A)
    proprio: Tensor  # (B, n, P)
    proprio_next: Tensor  # (B, n, P)
    executed_before: Tensor  # (B, n, H, A)
    proprio_before: Tensor  # (B, n, P)
    mask: Tensor  # bool (B, n), False for padding


def present_of(step: PolicyStep) -> Present:
    """Return one step as a batch of one."""
    arrays = (step.latent, step.sketch.dequantise(), step.proprio, step.base)
    return Present(*(torch.from_numpy(np.array(array, np.float32))[None] for array in arrays))


def recalled_of(steps: Experiences, config: EfnConfig) -> Recalled:
    """Return the recalled steps of one step as a batch of one.

    Raises:
        ValueError: The image codes have another size than the network's.
    """
    k, found = len(steps), steps.code.shape[1]
    if k and config.code_size and found != config.code_size:
        raise ValueError(f"image codes of the recalled steps have {found} numbers; the EFN takes {config.code_size}")
    size, proprio = (config.horizon, config.action_size), (len(config.proprio_mean),)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("executed", "base", "executed_before"), size)
    shapes |= dict.fromkeys(("proprio", "proprio_next", "proprio_before"), proprio)
    shapes |= {"latent": (config.latent[1],), "code": (config.code_size,), "similarity": ()}

    def batch(column: np.ndarray) -> Tensor:
        return torch.from_numpy(column.astype(np.float32))[None]

    columns = {name: getattr(steps, name) if k else np.zeros((0, *shape)) for name, shape in shapes.items()}
    columns["code"] = columns["code"][:, : config.code_size]
    return Recalled(
        **{name: batch(column) for name, column in columns.items()},
        success=batch(steps.outcome == Outcome.SUCCESS),
        mask=torch.ones((1, k), dtype=torch.bool),
    )


def recent_of(past: Sequence[PastDecision], proprio: np.ndarray, config: EfnConfig) -> Recent:
    """Return the last `recent_steps` decisions right before a step as a batch of one.

    The robot is assumed to be at rest before the first of them.

    Args:
        past: The decisions, oldest first.
        proprio: (P,) at the step itself.
        config: Of the network.
    """
    n, chunk = config.recent_steps, (config.horizon, config.action_size)
    held = [i for i, p in enumerate(past) if p.executed.shape != chunk]  # instead of a refused action of another shape
    past = past[held[-1] + 1 if held else 0 :][-n - 1 :]
    count, known = len(past), min(n, len(past))
    executed = np.stack([np.zeros(chunk), *(p.executed for p in past)])
    postures = np.stack([*(p.proprio for p in past), proprio])

    def batch(rows: np.ndarray) -> Tensor:
        rows = rows[count - known :].astype(np.float32)
        return torch.from_numpy(np.pad(rows, [(0, n - known), *[(0, 0)] * (rows.ndim - 1)]))[None]

    return Recent(
        executed=batch(executed[1:]),
        proprio=batch(postures[:-1]),
        proprio_next=batch(postures[1:]),
        executed_before=batch(executed[:-1]),
        proprio_before=batch(postures[np.maximum(np.arange(count) - 1, 0)]),
        mask=(torch.arange(n) < known)[None],
    )
