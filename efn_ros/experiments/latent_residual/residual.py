# SPDX-License-Identifier: MIT
"""The learned change of latent tokens, as a residual of the corrector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.experiments.latent_residual.decoding import latent_residual
from efn_ros.experiments.latent_residual.inference import VisualPolicyStep
from efn_ros.experiments.latent_residual.network import LatentEfn
from efn_ros.types import PolicyStep


class LatentResidual(LearnedResidual):
    """The residual of a change of Z, decoded by the frozen policy.

    It is zero, with a reason, for a step without V and for a step of another policy.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        decode: Callable[[np.ndarray, np.ndarray], np.ndarray],
        policy: str,
        **options: Any,
    ) -> None:
        """Load a network.

        Args:
            checkpoint: Directory that `./efn experiment latent_residual` wrote.
            decode: The frozen decoder (2), from Z (L, dz) and V (T, D) to an action (H, A).
            policy: Fingerprint of its policy.
            **options: Of `LearnedResidual`.
        """
        super().__init__(checkpoint, **options)
        self._decode, self._policy = decode, policy

    def load(self, directory: Path) -> Efn:
        """Load the network of a checkpoint."""
        return LatentEfn.from_pretrained(directory)

    def reason_against(self, step: PolicyStep) -> str:
        """Return why the latent tokens of a step cannot be decoded; empty where they can."""
        if not isinstance(step, VisualPolicyStep):
            return (
                "the step has no visual tokens; run policy and corrector in one process, and set experiment: "
                "latent_residual of vla_policy too"
            )
        if step.policy != self._policy:
            return (
                f"the step is of policy {step.policy!r}, but latent tokens are decoded by {self._policy!r}; name the "
                "step's in experiment_options.policy and .policy_checkpoint of efn_corrector"
            )
        return ""

    def residual(self, step: PolicyStep, present: Present, recalled: Recalled) -> Tensor:
        """Return the decoded residual of one step, (1, H, A)."""
        change = super().residual(step, present, recalled)[0].numpy()
        visual = step.visual if isinstance(step, VisualPolicyStep) else np.zeros((0, 0), np.float32)
        return torch.from_numpy(latent_residual(self._decode, step.latent, visual, change))[None]
