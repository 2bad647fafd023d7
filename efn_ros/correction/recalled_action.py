"""The correction without training: towards the action that was recalled. The baseline a learned one has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efn_ros.types import Outcome, PastDecision, PolicyStep, Proposal, Recall


@dataclass(frozen=True)
class RecalledAction:
    """residual = gain * confidence * (executed action of the drawn experience - base action).

    It is zero where nothing was recalled, where confidence is below `min_confidence`, and where the experience did
    not end in success.
    """

    gain: float = 0.5
    min_confidence: float = 0.5

    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[PastDecision] = ()) -> Proposal:
        """Trusts what it recalls, whatever the episode has shown."""
        nothing = np.zeros_like(step.base)
        if recall.selected < 0:
            return Proposal(nothing, recall.reason or "nothing was recalled")
        if recall.confidence < self.min_confidence:
            return Proposal(nothing, f"confidence {recall.confidence:.2f} is below {self.min_confidence:.2f}")
        experience = recall.steps[recall.selected]
        if experience.outcome != Outcome.SUCCESS:
            return Proposal(nothing, "the experience drawn did not end in success")
        if experience.executed.shape != step.base.shape:
            return Proposal(nothing, f"the experience holds a chunk of shape {experience.executed.shape}")
        return Proposal(np.float32(self.gain * recall.confidence) * (experience.executed - step.base))
