# SPDX-License-Identifier: MIT
"""A policy that moves about a posture, for a robot that no trained policy knows yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from efn_ros.policies.constant import ConstantPolicy
from efn_ros.policies.policy import PolicyOutput
from efn_ros.types import Observation


class SinePolicy(ConstantPolicy):
    """Moves each entry of the action in a sine about a posture, by the time of the image; its tokens are constant."""

    def __init__(
        self, *, action: Sequence[float], amplitude: float, frequency_hz: float, action_rate_hz: float, **settings: Any
    ) -> None:
        """Move about a posture.

        Args:
            action: The posture, (A,), in the units of the action.
            amplitude: Of the sine, in the same units.
            frequency_hz: Of the sine.
            action_rate_hz: Rows of the chunk per second.
            **settings: Of `ConstantPolicy`.
        """
        super().__init__(action=action, **settings)
        self.spec = replace(self.spec, name="sine", fingerprint=f"sine-{amplitude:g}-{frequency_hz:g}")
        self._posture, self._amplitude, self._frequency_hz = np.asarray(action, np.float32), amplitude, frequency_hz
        self._rows_s = np.arange(self.spec.horizon) / action_rate_hz

    def infer(self, observation: Observation) -> PolicyOutput:
        """Return the chunk that begins at the stamp of an observation."""
        at_s = observation.context.stamp_ns % round(1e9 / self._frequency_hz) * 1e-9 + self._rows_s
        offset = self._amplitude * np.sin(2 * np.pi * self._frequency_hz * at_s)
        return replace(self._output, action=(self._posture + offset[:, None]).astype(np.float32))
