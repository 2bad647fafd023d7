"""A policy that always answers the same: what is left of the loop when inference costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efn_ros.policies.policy import PolicyOutput, PolicySpec
from efn_ros.types import Observation


class ConstantPolicy:
    """Tokens and action drawn once from `seed`; for measuring the loop, never for moving a robot."""

    def __init__(
        self,
        *,
        cameras: Sequence[str] = ("left", "right"),
        image_size: int = 96,
        proprio_size: int = 4,
        horizon: int = 4,
        action: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        tokens: Sequence[int] = (80, 128),
        latent: Sequence[int] = (4, 128),
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
        self._output = PolicyOutput(
            latent=draw(*latent),
            visual=draw(*tokens),
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
            tokens=tuple(tokens),
            latent=tuple(latent),
            instruction_size=len(self._instruction),
            fingerprint=f"constant-{seed}",
        )

    def embed_instruction(self, instruction: str) -> np.ndarray:
        return self._instruction

    def infer(self, observation: Observation) -> PolicyOutput:
        return self._output

    def decode(self, latent: np.ndarray, visual: np.ndarray) -> np.ndarray:
        return self._output.action

    def decoder(self) -> None:
        return None
