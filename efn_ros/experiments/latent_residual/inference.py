# SPDX-License-Identifier: MIT
"""Policy steps with the visual tokens, which the decoder of latent tokens needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from efn_ros.policies.policy import PolicyOutput
from efn_ros.runtime.inference import Inference
from efn_ros.types import Observation, PolicyStep


@dataclass(frozen=True)
class VisualPolicyStep(PolicyStep):
    """A policy step with V, which stays in the process and is not stored in a bank."""

    visual: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (T, D)


class VisualInference(Inference):
    """Inference whose steps hold V."""

    def compact(self, observation: Observation, output: PolicyOutput) -> VisualPolicyStep:
        """Return the policy step of an output, with V."""
        return VisualPolicyStep(**vars(super().compact(observation, output)), visual=output.visual)
