# SPDX-License-Identifier: MIT
"""A residual that is smaller where the critics of a fine-tuned EFN disagree.

Source: appendix A.2, which proposes to attenuate residuals where confidence is low.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efn_ros.correction.corrector import Residual


def make_residual(p: Mapping[str, Any]) -> Residual:
    """Build the residual of efn_corrector; its parameters hold `experiment_options.disagreement_scale`."""
    from efn_ros.experiments.critic_disagreement.residual import AttenuatedResidual

    scale = p["experiment_options.disagreement_scale"]
    return AttenuatedResidual(p["checkpoint"], disagreement_scale=scale, gain=p["gain"], check_memory=p["check_memory"])
