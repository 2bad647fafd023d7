"""Steps as the tensors that the network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from efn_ros.efn.config import EfnConfig
from efn_ros.types import Experiences, Outcome, Past, PolicyStep

# Of a recalled step, what tells how the robot moves.
MOTION = ("executed", "proprio", "proprio_next", "executed_before", "proprio_before")


@dataclass(frozen=True)
class Present:
    """The step that is to be corrected, batched, float32: latent (B, L, dz), sketch (B, T, d), proprio (B, P), base
    (B, H, A)."""

    latent: Tensor
    sketch: Tensor
    proprio: Tensor
    base: Tensor


@dataclass(frozen=True)
class Recalled:
    """k recalled steps for each, float32: executed, base, executed_before (B, k, H, A); proprio, proprio_next,
    proprio_before (B, k, P); latent (B, k, dz), the mean of Z; code (B, k, codes), of what was seen, zero where that is
    not known; success, similarity (B, k). there: bool (B, k), False for what only fills up."""

    executed: Tensor
    base: Tensor
    proprio: Tensor
    proprio_next: Tensor
    executed_before: Tensor
    proprio_before: Tensor
    latent: Tensor
    code: Tensor
    success: Tensor
    similarity: Tensor
    there: Tensor


@dataclass(frozen=True)
class Recent:
    """The last n decisions of this episode before the present one, float32, each as in `Recalled`. happened: bool
    (B, n), False for what only fills up."""

    executed: Tensor
    proprio: Tensor
    proprio_next: Tensor
    executed_before: Tensor
    proprio_before: Tensor
    happened: Tensor


def present_of(step: PolicyStep) -> Present:
    """One step as a batch of one."""
    arrays = (step.latent, step.sketch.dequantise(), step.proprio, step.base)
    return Present(*(torch.from_numpy(np.array(array, np.float32))[None] for array in arrays))


def recalled_of(steps: Experiences, config: EfnConfig) -> Recalled:
    """What was recalled for one step as a batch of one. Raises ValueError where what the steps saw is not encoded in as
    many numbers as the network reads."""
    k, seen = len(steps), steps.code.shape[1]
    if k and config.codes and seen != config.codes:
        raise ValueError(f"the EFN reads {config.codes} numbers of what a recalled step saw, not {seen}")
    size, proprio = (config.horizon, config.action_size), (len(config.proprio_mean),)
    shapes = dict.fromkeys(("executed", "base", "executed_before"), size)
    shapes |= dict.fromkeys(("proprio", "proprio_next", "proprio_before"), proprio)
    shapes |= {"latent": (config.latent[1],), "code": (config.codes,), "similarity": ()}

    def batch(column: np.ndarray) -> Tensor:
        return torch.from_numpy(column.astype(np.float32))[None]

    columns = {name: getattr(steps, name) if k else np.zeros((0, *shape)) for name, shape in shapes.items()}
    columns["code"] = columns["code"][:, : config.codes]
    return Recalled(
        **{name: batch(column) for name, column in columns.items()},
        success=batch(steps.outcome == Outcome.SUCCESS),
        there=torch.ones((1, k), dtype=torch.bool),
    )


def recent_of(past: Sequence[Past], proprio: np.ndarray, config: EfnConfig) -> Recent:
    """The last `config.recent` of the decisions right before one at proprio (P,), the oldest first, as a batch of one.
    Before the first of them the robot stood still, as far as is known."""
    n, chunk = config.recent, (config.horizon, config.action_size)
    broken = [i for i, p in enumerate(past) if p.executed.shape != chunk]  # a hold in place of a refused action
    past = past[broken[-1] + 1 if broken else 0 :][-n - 1 :]
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
        happened=(torch.arange(n) < known)[None],
    )
