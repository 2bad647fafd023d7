# SPDX-License-Identifier: MIT
"""The learned correction: residuals of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled, present_of, recalled_of, recent_of
from efn_ros.efn.config import PACKAGED
from efn_ros.resources import checkpoint_directory
from efn_ros.types import PastDecision, PolicyStep, Proposal, Recall


class LearnedResidual:
    """Proposes the deterministic residual of a network, scaled by its trust in the memory.

    The residual is zero without a recalled experience.

    Attributes:
        efn: The network.
        codes: Its encoder of image codes; None if it uses none.

    Source: section 4.4.
    """

    def __init__(
        self, checkpoint: str | Path = "", *, gain: float = 1.0, check_memory: bool = True, threads: int = 1
    ) -> None:
        """Load a network.

        Args:
            checkpoint: As `checkpoint_directory` takes it.
            gain: Factor on the residual.
            check_memory: Scale the residual by the network's trust, if it estimates one.
            threads: Of inference.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: The checkpoint does not fit its configuration.
        """
        torch.set_num_threads(threads)
        self.efn = self.load(checkpoint_directory(checkpoint, PACKAGED))
        self.codes = self.efn.codes
        self._gain, self._check_memory = np.float32(gain), check_memory

    # Experiments override these.

    def load(self, directory: Path) -> Efn:
        """Load the network of a checkpoint."""
        return Efn.from_pretrained(directory)

    def reason_against(self, step: PolicyStep) -> str:
        """Return the reason not to propose a residual for a step; empty: propose one."""
        return ""

    def residual(self, step: PolicyStep, present: Present, recalled: Recalled) -> Tensor:
        """Return the residual of one step, (1, H, A), before trust and gain."""
        return self.efn.residual(present, recalled)

    @torch.inference_mode()
    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[PastDecision] = ()) -> Proposal:
        """Propose a residual.

        Args:
            step: The policy step.
            recall: The experience recalled for it.
            past: The decisions right before the step, oldest first.

        Raises:
            ValueError: The sizes of the step are not those of the network.
        """
        c = self.efn.config
        for name, found, expected in (
            ("base action", step.base.shape, (c.horizon, c.action_size)),
            ("latent", step.latent.shape, c.latent),
            ("sketch", step.sketch.q.shape, c.sketch),
            ("proprioception", step.proprio.shape, (len(c.proprio_mean),)),
        ):
            if tuple(found) != expected:
                raise ValueError(f"{name} of the step has shape {tuple(found)}; the EFN takes {expected}")
        if reason := self._reason_without_residual(step, recall):
            return Proposal(np.zeros_like(step.base), reason)
        present, recalled = present_of(step), recalled_of(recall.steps, c)
        residual = self.residual(step, present, recalled)
        trust = 1.0
        if self._check_memory and c.recent_steps and recall.steps:
            recent = recent_of(past, step.proprio, c)
            trust = self.efn.estimate_trust(present, recalled, recent)[0].item()
        return Proposal(self._gain * np.float32(trust) * residual[0].numpy(), trust=trust)

    def _reason_without_residual(self, step: PolicyStep, recall: Recall) -> str:
        """The reason for a residual of zero; empty if the network gives it."""
        c, steps = self.efn.config, recall.steps
        if c.use_memory and not steps:
            return recall.reason or "nothing was recalled"
        if steps and steps.executed.shape[1:] != step.base.shape:
            return f"memory holds chunks of shape {steps.executed.shape[1:]}"
        if c.use_memory and self.codes and recall.codes != self.codes.identity:
            return (
                "the recalled image codes are not those of the EFN; set codes of experience_retrieval to its checkpoint"
            )
        return self.reason_against(step)
