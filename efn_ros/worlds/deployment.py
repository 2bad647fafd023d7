# SPDX-License-Identifier: MIT
"""A deployment: hidden, constant shifts between where a policy was trained and where it works.

The robot cannot read the shifts; they are the same in every episode. The failures that they cause are systematic, so an
experience bank can learn from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

# The strongest shift of each kind, at strength 1.
MAX_OFFSET = 0.35  # of full speed, in x and y; 0.7 of it in z
MAX_GAIN_LOG = math.log(1.7)  # factor on the arm's motion, or on its reciprocal
MAX_YAW_RAD = math.radians(40.0)  # between the arm's base and the base that it assumes
MAX_CAMERA_SHIFT_M = 0.06
MAX_CAMERA_TURN_RAD = math.radians(12.0)
MAX_ZOOM_LOG = math.log(1.12)
MAX_LIGHT_LOG = math.log(1.4)  # beyond, the smallest policy here fails
MAX_LATENCY_STEPS = 3

KINDS = ("offset", "gain", "yaw", "camera", "zoom", "light", "latency")
SAMPLED = tuple(kind for kind in KINDS if kind != "latency")  # kinds of a sampled deployment
MAX_KINDS = 3  # of a sampled deployment
CAMERA_KINDS = ("camera", "zoom", "light")  # kinds that change only the images
CAMERA_FIELDS = ("camera_shift_m", "camera_turn_rad", "zoom", "light", "tint")  # of `Deployment`, of CAMERA_KINDS


@dataclass(frozen=True)
class Deployment:
    """The shifts; the defaults are the condition of training."""

    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to a commanded translation, fraction of full speed
    gain: float = 1.0  # factor on a commanded translation
    yaw_rad: float = 0.0  # rotation of a commanded translation about z
    latency_steps: int = 0  # control steps before a command acts
    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the point at which an external camera points
    camera_turn_rad: tuple[float, float] = (0.0, 0.0)  # (azimuth, elevation) of every external camera
    zoom: float = 1.0  # factor on the distance of every external camera
    light: float = 1.0  # factor on brightness
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factors on red, green and blue

    @classmethod
    def sample(cls, seed: int, kinds: Sequence[str] = SAMPLED) -> Deployment:
        """Draw a deployment with one to three kinds of shift, each with a strength of 0.3 to 1.

        Args:
            seed: Of all that is drawn.
            kinds: To choose from.
        """
        return cls.draw(seed, sample_strengths(seed, kinds))

    @classmethod
    def draw(cls, seed: int, strengths: Mapping[str, float]) -> Deployment:
        """Draw shifts of given strengths.

        A shift has half to all of its strength, in a random direction. The draw of a kind depends only on the seed and
        the kind.

        Args:
            seed: Of all that is drawn.
            strengths: Kind -> strength in [0, 1].

        Raises:
            ValueError: A kind is unknown, or a strength out of range.
        """
        for kind, strength in strengths.items():
            if kind not in KINDS:
                raise ValueError(f"deployment shift {kind!r} is unknown; choose from {', '.join(KINDS)}")
            if not 0.0 <= strength <= 1.0:
                raise ValueError(f"strength of deployment shift {kind!r} is {strength}, outside [0, 1]")
        rng = {kind: np.random.default_rng([seed, i]) for i, kind in enumerate(KINDS)}
        size = {k: strengths.get(k, 0.0) * rng[k].uniform(0.5, 1.0) for k in KINDS}
        sign = {k: rng[k].choice((-1.0, 1.0)) for k in KINDS}

        def direction(kind: str, n: int) -> np.ndarray:
            vector = rng[kind].normal(size=n)
            return vector / np.linalg.norm(vector)

        offset = np.append(direction("offset", 2), 0.7 * rng["offset"].uniform(-1, 1)) * size["offset"] * MAX_OFFSET
        tint = np.exp(0.3 * MAX_LIGHT_LOG * size["light"] * rng["light"].uniform(-1, 1, size=3))
        return cls(
            offset=tuple(offset.tolist()),
            gain=math.exp(sign["gain"] * size["gain"] * MAX_GAIN_LOG),
            yaw_rad=float(sign["yaw"] * size["yaw"] * MAX_YAW_RAD),
            latency_steps=math.ceil(size["latency"] * MAX_LATENCY_STEPS),
            camera_shift_m=tuple((direction("camera", 3) * size["camera"] * MAX_CAMERA_SHIFT_M).tolist()),
            camera_turn_rad=tuple((direction("camera", 2) * size["camera"] * MAX_CAMERA_TURN_RAD).tolist()),
            zoom=math.exp(sign["zoom"] * size["zoom"] * MAX_ZOOM_LOG),
            light=math.exp(sign["light"] * size["light"] * MAX_LIGHT_LOG),
            tint=tuple(tint.tolist()),
        )

    def with_nominal_cameras(self) -> Deployment:
        """Return the same arm with the cameras and the light of training."""
        return replace(self, **{name: getattr(Deployment(), name) for name in CAMERA_FIELDS})

    def with_other_cameras(self, seed: int) -> Deployment:
        """Return the same arm with other cameras and light; each of CAMERA_KINDS is shifted in two of three draws."""
        rng = np.random.default_rng([seed, len(KINDS), 1])
        strengths = {kind: float(rng.uniform(0.3, 1.0)) for kind in CAMERA_KINDS if rng.random() < 2 / 3}
        other = self.draw(int(rng.integers(2**31)), strengths)
        return replace(self, **{name: getattr(other, name) for name in CAMERA_FIELDS})

    def coordinates(self) -> np.ndarray:
        """Return the shifts, each as a share of the strongest one, float32 (12,).

        In order: offset (3,), gain, yaw, camera shift (3,), camera turn (2,), zoom, light.
        """
        arm = arm_coordinates(np.array([self.offset]), np.array([self.gain]), np.array([self.yaw_rad]))[0]
        camera = (
            np.divide([*self.camera_shift_m], MAX_CAMERA_SHIFT_M),
            np.divide(self.camera_turn_rad, MAX_CAMERA_TURN_RAD),
        )
        logs = np.log([self.zoom, self.light]) / (MAX_ZOOM_LOG, MAX_LIGHT_LOG)
        return np.concatenate([arm, *camera, logs]).astype(np.float32)

    def move(self, translation: np.ndarray) -> np.ndarray:
        """Return the motion (3,) of the arm for a commanded translation (3,), both as fractions of full speed."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        x, y, z = self.gain * translation
        return np.array([cos * x - sin * y, sin * x + cos * y, z]) + self.offset

    def inverse(self, motion: np.ndarray) -> np.ndarray:
        """Return the commanded translations for which `move` returns `motion` (..., 3)."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        x, y, z = np.moveaxis((motion - np.array(self.offset)) / self.gain, -1, 0)
        return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)


def arm_coordinates(offset: np.ndarray, gain: np.ndarray, yaw_rad: np.ndarray) -> np.ndarray:
    """Return the first five `Deployment.coordinates`, (B, 5), of offset (B, 3), gain (B,) and yaw_rad (B,)."""
    return np.column_stack([offset / MAX_OFFSET, np.log(gain) / MAX_GAIN_LOG, yaw_rad / MAX_YAW_RAD])


def sample_strengths(seed: int, kinds: Sequence[str] = SAMPLED) -> dict[str, float]:
    """Return kind -> strength of the shifts of `Deployment.sample`."""
    rng = np.random.default_rng([seed, len(KINDS)])
    chosen = rng.choice(kinds, rng.integers(1, min(MAX_KINDS, len(kinds)) + 1), replace=False)
    return {str(kind): float(rng.uniform(0.3, 1.0)) for kind in chosen}
