"""From an observation to the compact policy step that travels, is recalled by and is remembered."""

from __future__ import annotations

import numpy as np

from efn_ros.features.sketches import Projection
from efn_ros.policies.policy import FrozenPolicy, PolicyOutput
from efn_ros.types import Observation, PolicyStep


class Inference:
    """The frozen policy with the bank's projection. `output` keeps V of the last step, which travels only where
    publish_visual is set."""

    def __init__(self, policy: FrozenPolicy, projection: Projection, *, publish_visual: bool = False) -> None:
        self.policy, self.projection, self._publish_visual = policy, projection, publish_visual
        self.output: PolicyOutput | None = None

    def __call__(self, observation: Observation) -> PolicyStep:
        """Raises ValueError, naming the entry, for images or proprioception that the policy cannot take."""
        self._check(observation)
        self.output = output = self.policy.infer(observation)
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
            visual=output.visual if self._publish_visual else None,
        )

    def _check(self, observation: Observation) -> None:
        spec = self.policy.spec
        for camera in spec.cameras:
            if camera not in observation.images:
                raise ValueError(f"image of camera {camera!r} is missing; there are {sorted(observation.images)}")
            expected, shape = (spec.image_size, spec.image_size, 3), observation.images[camera].shape
            if shape != expected:
                raise ValueError(f"image of camera {camera!r} has shape {shape}; the policy takes {expected}")
        if observation.proprio.shape != (spec.proprio_size,):
            raise ValueError(
                f"proprioception has {observation.proprio.shape} entries; the policy takes {spec.proprio_size}"
            )
        if not np.isfinite(observation.proprio).all():
            raise ValueError(f"proprioception[{np.argmin(np.isfinite(observation.proprio))}] is not finite")
        if not observation.context.instruction.strip():
            raise ValueError("the instruction is empty; start the episode with one")
