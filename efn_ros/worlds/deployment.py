"""A deployment: hidden, constant shifts between where a policy was trained and where it works.

The robot never reads them; it only meets them, in every episode alike. Failures they cause are systematic, which is
what an experience bank can learn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

# The strongest shift of each kind, reached at strength 1.
MAX_OFFSET = 0.35  # of full speed, in x and y; z takes 0.7 of it
MAX_GAIN_LOG = math.log(1.7)  # the arm moves 1.7 times too far, or too short
MAX_YAW_RAD = math.radians(40.0)  # between the arm's base and what it takes for its base
MAX_CAMERA_SHIFT_M = 0.06
MAX_CAMERA_TURN_RAD = math.radians(12.0)
MAX_ZOOM_LOG = math.log(1.12)
MAX_LIGHT_LOG = math.log(1.4)  # the smallest policy here sees little beyond
MAX_LATENCY_STEPS = 3

KINDS = ("offset", "gain", "yaw", "camera", "zoom", "light", "latency")
SAMPLED = tuple(kind for kind in KINDS if kind != "latency")
MOST_KINDS = 3  # in one deployment that is sampled
CAMERA_KINDS = ("camera", "zoom", "light")  # what changes the images alone
CAMERA_FIELDS = ("camera_shift_m", "camera_turn_rad", "zoom", "light", "tint")  # the fields of those


@dataclass(frozen=True)
class Deployment:
    """The shifts themselves; the default is the condition of training.

    offset: (3,) added to the commanded translation, as a fraction of full speed. gain: factor on it. yaw_rad: its
    rotation about z. latency_steps: control steps before a command acts. camera_shift_m: (3,) of every external
    camera's look-at point. camera_turn_rad: (azimuth, elevation). zoom: factor on camera distance. light: factor on
    brightness; tint: (3,) factors on red, green, blue.
    """

    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gain: float = 1.0
    yaw_rad: float = 0.0
    latency_steps: int = 0
    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turn_rad: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    light: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def sample(cls, seed: int, kinds: Sequence[str] = SAMPLED) -> Deployment:
        """Any deployment: one to three of `kinds` of shift, each with a strength of 0.3 to 1, all drawn from `seed`."""
        return cls.draw(seed, sample_strengths(seed, kinds))

    @classmethod
    def draw(cls, seed: int, strengths: Mapping[str, float]) -> Deployment:
        """Draw the shifts named in `strengths` (kind to strength in [0, 1]) from `seed`.

        A shift has half to all of its strength, in a direction drawn at random; a kind's draw depends on nothing but
        the seed and the kind. Raises ValueError for an unknown kind or a strength out of range.
        """
        for kind, strength in strengths.items():
            if kind not in KINDS:
                raise ValueError(f"deployment shift {kind!r} is unknown; there are {', '.join(KINDS)}")
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
        """The same arm before the cameras and in the light of training."""
        return replace(self, **{name: getattr(Deployment(), name) for name in CAMERA_FIELDS})

    def with_other_cameras(self, seed: int) -> Deployment:
        """The same arm before other cameras and in another light: each kind is there in two of three draws."""
        rng = np.random.default_rng([seed, len(KINDS), 1])
        strengths = {kind: float(rng.uniform(0.3, 1.0)) for kind in CAMERA_KINDS if rng.random() < 2 / 3}
        other = self.draw(int(rng.integers(2**31)), strengths)
        return replace(self, **{name: getattr(other, name) for name in CAMERA_FIELDS})

    def coordinates(self) -> np.ndarray:
        """float32 (12,), each as a share of its strongest: offset (3,), gain, yaw; camera shift (3,) and turn (2,),
        zoom, brightness."""
        arm = arm_coordinates(np.array([self.offset]), np.array([self.gain]), np.array([self.yaw_rad]))[0]
        camera = (
            np.divide([*self.camera_shift_m], MAX_CAMERA_SHIFT_M),
            np.divide(self.camera_turn_rad, MAX_CAMERA_TURN_RAD),
        )
        logs = np.log([self.zoom, self.light]) / (MAX_ZOOM_LOG, MAX_LIGHT_LOG)
        return np.concatenate([arm, *camera, logs]).astype(np.float32)

    def move(self, translation: np.ndarray) -> np.ndarray:
        """What the arm does when told to move by `translation` (3,), both as fractions of full speed."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        x, y, z = self.gain * translation
        return np.array([cos * x - sin * y, sin * x + cos * y, z]) + self.offset

    def inverse(self, motion: np.ndarray) -> np.ndarray:
        """The translations that `move` turns into `motion` (..., 3): its inverse."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        x, y, z = np.moveaxis((motion - np.array(self.offset)) / self.gain, -1, 0)
        return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)


def arm_coordinates(offset: np.ndarray, gain: np.ndarray, yaw_rad: np.ndarray) -> np.ndarray:
    """The first five of `Deployment.coordinates`, (B, 5), of offset (B, 3), gain and yaw_rad (B,)."""
    return np.column_stack([offset / MAX_OFFSET, np.log(gain) / MAX_GAIN_LOG, yaw_rad / MAX_YAW_RAD])


def sample_strengths(seed: int, kinds: Sequence[str] = SAMPLED) -> dict[str, float]:
    """Kind -> strength of the shifts of `Deployment.sample`."""
    rng = np.random.default_rng([seed, len(KINDS)])
    chosen = rng.choice(kinds, rng.integers(1, min(MOST_KINDS, len(kinds)) + 1), replace=False)
    return {str(kind): float(rng.uniform(0.3, 1.0)) for kind in chosen}
