"""The learned correction: a trained network behind the interface of the corrector."""

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
    """The deterministic residual of a network, scaled by how far memory fits what the episode has shown.

    It is zero where nothing was recalled.

    Source: section 4.4, tanh of the actor's mean.
    """

    def __init__(
        self, checkpoint: str | Path = "", *, gain: float = 1.0, check_memory: bool = True, threads: int = 1
    ) -> None:
        """Load a network.

        Args:
            checkpoint: Directory, as `checkpoint_directory` names it; empty: the one of the package.
            gain: Factor on the residual.
            check_memory: Scale the residual by the network's `Trust`, if it has one.
            threads: Of inference.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: It does not fit its configuration.
        """
        torch.set_num_threads(threads)
        self.efn = self.load(checkpoint_directory(checkpoint, PACKAGED))
        self.codes = self.efn.codes
        self._gain, self._check_memory = np.float32(gain), check_memory

    # What an experiment may fill in.

    def load(self, directory: Path) -> Efn:
        """Load the network of a checkpoint."""
        return Efn.from_pretrained(directory)

    def reason_against(self, step: PolicyStep) -> str:
        """Return why nothing can be proposed for a step, in words; empty where something can."""
        return ""

    def residual(self, step: PolicyStep, present: Present, recalled: Recalled) -> Tensor:
        """Return the residual of one step, (1, H, A), before trust and gain."""
        return self.efn.residual(present, recalled)

    # What the corrector calls.

    @torch.inference_mode()
    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[PastDecision] = ()) -> Proposal:
        """Propose a residual.

        Args:
            step: The policy step.
            recall: What was recalled for it.
            past: The decisions of this episode right before it, oldest first.

        Raises:
            ValueError: The step is of other sizes than the network.
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
        """Why the network is not asked; empty where it is."""
        c, steps = self.efn.config, recall.steps
        if c.use_memory and not steps:
            return recall.reason or "nothing was recalled"
        if steps and steps.executed.shape[1:] != step.base.shape:
            return f"memory holds chunks of shape {steps.executed.shape[1:]}"
        if c.use_memory and self.codes and recall.codes != self.codes.identity:
            return "what was seen is not recalled as the EFN reads it; name it in codes of experience_retrieval"
        return self.reason_against(step)
