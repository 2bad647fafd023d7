# SPDX-License-Identifier: MIT
"""A correction without training: towards the recalled action. A learned correction must be better than this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efn_ros.types import Outcome, PastDecision, PolicyStep, Proposal, Recall


@dataclass(frozen=True)
class RecalledAction:
    """Proposes gain * confidence * (executed action of the selected experience - base action).

    The residual is zero without a recalled experience, with a confidence below `min_confidence`, and if the episode of
    the experience did not end in success.
    """

    gain: float = 0.5  # factor on the residual
    min_confidence: float = 0.5  # of the recall, in [0, 1]

    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[PastDecision] = ()) -> Proposal:
        """Propose a residual, as `Residual`; the past decisions are not used."""
        zero = np.zeros_like(step.base)
        if recall.selected < 0:
            return Proposal(zero, recall.reason or "nothing was recalled")
        if recall.confidence < self.min_confidence:
            return Proposal(zero, f"confidence {recall.confidence:.2f} is below {self.min_confidence:.2f}")
        experience = recall.steps[recall.selected]
        if experience.outcome != Outcome.SUCCESS:
            return Proposal(zero, "the experience drawn did not end in success")
        if experience.executed.shape != step.base.shape:
            return Proposal(zero, f"the experience holds a chunk of shape {experience.executed.shape}")
        return Proposal(np.float32(self.gain * recall.confidence) * (experience.executed - step.base))
