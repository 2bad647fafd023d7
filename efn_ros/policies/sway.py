"""A policy that sways about a posture: something to see and to bridge where no policy knows the robot yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from efn_ros.policies.constant import ConstantPolicy
from efn_ros.policies.policy import PolicyOutput
from efn_ros.types import Observation


class SwayPolicy(ConstantPolicy):
    """Each entry of the action goes to and fro about `action`, (A,), by `amplitude`, in its units, at `sway_hz`, by the
    time that the image was taken; rate_hz: of the chunk's rows. Its tokens tell nothing."""

    def __init__(
        self, *, action: Sequence[float], amplitude: float, sway_hz: float, rate_hz: float, **settings
    ) -> None:
        super().__init__(action=action, **settings)
        self.spec = replace(self.spec, name="sway", fingerprint=f"sway-{amplitude:g}-{sway_hz:g}")
        self._posture, self._amplitude, self._sway_hz = np.asarray(action, np.float32), amplitude, sway_hz
        self._rows_s = np.arange(self.spec.horizon) / rate_hz

    def infer(self, observation: Observation) -> PolicyOutput:
        at_s = observation.context.stamp_ns % round(1e9 / self._sway_hz) * 1e-9 + self._rows_s
        sway = self._amplitude * np.sin(2 * np.pi * self._sway_hz * at_s)
        return replace(self._output, action=(self._posture + sway[:, None]).astype(np.float32))
