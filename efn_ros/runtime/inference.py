# SPDX-License-Identifier: MIT
"""From an observation to the compact policy step that is published, compared and stored."""

from __future__ import annotations

import numpy as np

from efn_ros.features.sketches import Projection
from efn_ros.policies.policy import FrozenPolicy, PolicyOutput
from efn_ros.types import Observation, PolicyStep


class Inference:
    """The frozen policy with the projection of the bank.

    Attributes:
        policy: The policy.
        projection: Of its visual tokens.
    """

    def __init__(self, policy: FrozenPolicy, projection: Projection) -> None:
        self.policy, self.projection = policy, projection

    def __call__(self, observation: Observation) -> PolicyStep:
        """Run the policy on an observation.

        Raises:
            ValueError: The images, the proprioception or the instruction do not fit; the message names the entry.
        """
        self._check(observation)
        return self.compact(observation, self.policy.infer(observation))

    def compact(self, observation: Observation, output: PolicyOutput) -> PolicyStep:
        """Return the policy step of an output."""
        return PolicyStep(
            context=observation.context,
            base=output.action,
            key=self.projection.describe(output.visual),
            sketch=self.projection.sketch(output.visual),
            latent=output.latent,
            instruction_embedding=self.policy.embed_instruction(observation.context.instruction),
            proprio=observation.proprio,
            policy=self.policy.spec.fingerprint,
            projection=self.projection.identity,
        )

    def _check(self, observation: Observation) -> None:
        spec = self.policy.spec
        for camera in spec.cameras:
            if camera not in observation.images:
                raise ValueError(
                    f"image of camera {camera!r} is missing; the observation has {sorted(observation.images)}"
                )
            expected, shape = (spec.image_size, spec.image_size, 3), observation.images[camera].shape
            if shape != expected:
                raise ValueError(f"image of camera {camera!r} has shape {shape}; the policy takes {expected}")
        if observation.proprio.shape != (spec.proprio_size,):
            raise ValueError(
                f"proprioception has shape {observation.proprio.shape}; the policy takes ({spec.proprio_size},)"
            )
        if not np.isfinite(observation.proprio).all():
            raise ValueError(f"proprioception[{np.argmin(np.isfinite(observation.proprio))}] is not finite")
        if not observation.context.instruction.strip():
            raise ValueError("the instruction is empty; start the episode with one")
