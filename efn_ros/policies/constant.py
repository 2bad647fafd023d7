# SPDX-License-Identifier: MIT
"""A policy with a constant output, to measure and test the loop without the cost of inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efn_ros.policies.policy import PolicyOutput, PolicySpec
from efn_ros.types import Observation


class ConstantPolicy:
    """Returns random tokens, drawn once from `seed`, and a constant action; not meant to move a robot."""

    def __init__(
        self,
        *,
        cameras: Sequence[str] = ("left", "right"),
        image_size: int = 96,
        proprio_size: int = 4,
        horizon: int = 4,
        action: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        tokens: tuple[int, int] = (80, 128),
        latent: tuple[int, int] = (4, 128),
        seed: int = 0,
    ) -> None:
        """Draw the output.

        Args:
            cameras: As of `PolicySpec`.
            image_size: As of `PolicySpec`.
            proprio_size: As of `PolicySpec`.
            horizon: As of `PolicySpec`.
            action: Each row of the chunk, (A,).
            tokens: As of `PolicySpec`.
            latent: As of `PolicySpec`.
            seed: Of the tokens.
        """
        rng = np.random.default_rng(seed)
        self._output = PolicyOutput(
            latent=rng.standard_normal(latent, dtype=np.float32),
            visual=rng.standard_normal(tokens, dtype=np.float32),
            action=np.tile(np.asarray(action, np.float32), (horizon, 1)),
        )
        self._instruction = np.full(64, 1 / 8, np.float32)
        self.spec = PolicySpec(
            name="constant",
            cameras=tuple(cameras),
            image_size=image_size,
            proprio_size=proprio_size,
            horizon=horizon,
            action_size=len(action),
            tokens=tokens,
            latent=latent,
            fingerprint=f"constant-{seed}",
        )

    def embed_instruction(self, instruction: str) -> np.ndarray:
        """Return the same embedding for every instruction."""
        return self._instruction

    def infer(self, observation: Observation) -> PolicyOutput:
        """Return the constant output."""
        return self._output

    def decode(self, latent: np.ndarray, visual: np.ndarray) -> np.ndarray:
        """Return the constant action chunk."""
        return self._output.action

    def decoder(self) -> None:
        """Return None: a constant has no gradient."""
        return None
