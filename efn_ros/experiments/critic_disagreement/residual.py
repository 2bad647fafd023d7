"""The learned residual, attenuated by the disagreement of critics."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.sac.critics import CRITICS, EfnCritics
from efn_ros.types import PolicyStep


class CautiousResidual(LearnedResidual):
    """A residual that is smaller where the critics beside the actor disagree."""

    def __init__(self, checkpoint: str | Path, *, disagreement_scale: float, **options) -> None:
        """Load a network with its critics.

        Args:
            checkpoint: Directory of `./efn experiment sac`.
            disagreement_scale: Of the critics, in units of the return, at which half of the residual is left.
            **options: Of `LearnedResidual`.

        Raises:
            FileNotFoundError: There are no critics beside the network.
            ValueError: The scale is not above 0, or the checkpoint does not fit.
        """
        if not disagreement_scale > 0:
            raise ValueError(f"disagreement_scale is {disagreement_scale}; it must be above 0")
        self._scale = disagreement_scale
        super().__init__(checkpoint, **options)

    def load(self, directory: Path) -> Efn:
        """Load the network, and its critics."""
        if not (directory / CRITICS).is_file():
            raise FileNotFoundError(f"{directory} has no {CRITICS}; name a checkpoint of ./efn experiment sac")
        self._critics = EfnCritics.from_pretrained(directory)
        return super().load(directory)

    def residual(self, step: PolicyStep, present: Present, recalled: Recalled) -> Tensor:
        """Return the attenuated residual of one step, (1, H, A)."""
        residual = super().residual(step, present, recalled)
        disagreement = self._critics(present, recalled, residual).std(dim=0, correction=0)
        return residual * attenuation(disagreement, self._scale)[:, None, None]


def attenuation(disagreement: Tensor, scale: float) -> Tensor:
    """Return a factor in [0, 1] that falls with the critics' disagreement: 2^(-disagreement / scale).

    scale: disagreement at which half is left, such as its median over decisions that ended well.

    Raises:
        ValueError: The scale is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0")
    return torch.exp2(-disagreement / scale)
