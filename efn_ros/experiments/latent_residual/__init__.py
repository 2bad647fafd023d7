# SPDX-License-Identifier: MIT
"""Residuals on the latent action tokens, decoded by the frozen policy.

They need policy and corrector in one process: visual tokens do not travel between nodes.

Source: equations (1) and (2), appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efn_ros.correction.corrector import Residual
from efn_ros.runtime.inference import Inference


def make_inference(p: Mapping[str, Any]) -> Inference:
    """Build the inference of vla_policy, whose steps hold the visual tokens."""
    from efn_ros.experiments.latent_residual.inference import VisualInference
    from efn_ros.runtime.factory import make_policy, make_projection

    return VisualInference(make_policy(p), make_projection(p))


def make_residual(p: Mapping[str, Any]) -> Residual:
    """Build the residual of efn_corrector; `experiment_options.policy` and `.policy_checkpoint` name the decoder's."""
    from efn_ros.experiments.latent_residual.residual import LatentResidual
    from efn_ros.policies import load_policy

    policy = load_policy(p["experiment_options.policy"], checkpoint=p.get("experiment_options.policy_checkpoint", ""))
    return LatentResidual(
        p["checkpoint"],
        decode=policy.decode,
        policy=policy.spec.fingerprint,
        gain=p["gain"],
        check_memory=p["check_memory"],
    )
