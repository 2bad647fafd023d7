# SPDX-License-Identifier: MIT
"""The learned residual, attenuated by the disagreement of critics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.sac.critics import CRITICS, EfnCritics
from efn_ros.types import PolicyStep


class AttenuatedResidual(LearnedResidual):
    """A learned residual that is smaller where the critics of its checkpoint disagree."""

    def __init__(self, checkpoint: str | Path, *, disagreement_scale: float, **options: Any) -> None:
        """Load a network with its critics.

        Args:
            checkpoint: Directory that `./efn experiment sac` wrote.
            disagreement_scale: Disagreement, in units of the return, at which half of the residual is left.
            **options: Of `LearnedResidual`.

        Raises:
            FileNotFoundError: The directory holds no critics.
            ValueError: The scale is not above 0, or the checkpoint does not fit.
        """
        if not disagreement_scale > 0:
            raise ValueError(f"disagreement_scale is {disagreement_scale}; it must be above 0")
        self._scale = disagreement_scale
        super().__init__(checkpoint, **options)

    def load(self, directory: Path) -> Efn:
        """Load the network and its critics."""
        if not (directory / CRITICS).is_file():
            raise FileNotFoundError(f"{directory} has no {CRITICS}; name a checkpoint of ./efn experiment sac")
        self._critics = EfnCritics.from_pretrained(directory)
        return super().load(directory)

    def residual(self, step: PolicyStep, present: Present, recalled: Recalled) -> Tensor:
        """Return the attenuated residual of one step, (1, H, A)."""
        residual = super().residual(step, present, recalled)
        disagreement = self._critics.disagreement(present, recalled, residual)
        return residual * attenuation(disagreement, self._scale)[:, None, None]


def attenuation(disagreement: Tensor, scale: float) -> Tensor:
    """Return the factor 2^(-disagreement / scale), in [0, 1].

    Args:
        disagreement: Of the critics, (B,).
        scale: Disagreement with a factor of one half, above 0, such as its median over successful decisions.
    """
    return torch.exp2(-disagreement / scale)
