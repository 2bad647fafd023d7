"""Where two arms may be: bounds of the space they work in. They hold for points, the origins of the links' frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from efn_ros.robots.kinematics import Chain

BOX = 6  # numbers: lowest x, y, z, then highest x, y, z


class Broken(NamedTuple):
    """What is broken, bool. outside: (N, 4, 3), of held links and of x, y, z. entered: (N, K, links). near: (N,)."""

    outside: np.ndarray
    entered: np.ndarray
    near: np.ndarray


@dataclass(frozen=True)
class Workspace:
    """Bounds in the frame of the arms' common base, m.

    arms: left and right. wrists: a link of each. box: float64 (2, 3), lowest and highest corner of what wrists and tips
    stay in, infinite where there is no bound. keep_out: float64 (K, 2, 3), boxes that no link enters. wrist_distance_m:
    the least between the two wrists, 0 for none.
    """

    arms: tuple[Chain, Chain]
    wrists: tuple[str, str]
    box: np.ndarray
    keep_out: np.ndarray
    wrist_distance_m: float

    @classmethod
    def create(
        cls,
        arms: tuple[Chain, Chain],
        wrists: tuple[str, str],
        *,
        box: Sequence[float] = (),
        keep_out: Sequence[float] = (),
        wrist_distance_m: float = 0.0,
    ) -> Workspace:
        """A box is six numbers, lowest x, y, z and highest x, y, z; keep_out is any number of boxes in a row.

        What is empty bounds nothing. Raises ValueError naming the bad one.
        """
        for arm, wrist in zip(arms, wrists, strict=True):
            if wrist not in arm.links:
                raise ValueError(f"wrist {wrist!r} is no link of its arm; there are {', '.join(arm.links)}")
        if not 0 <= wrist_distance_m < np.inf:
            raise ValueError(f"wrist_distance_m is {wrist_distance_m}; it must be finite and at least 0")
        everywhere = np.array([[[-np.inf] * 3, [np.inf] * 3]])
        boxes = _boxes("box", box) if len(box) else everywhere
        if len(boxes) > 1:
            raise ValueError(f"box has {len(box)} numbers; one box has {BOX}")
        return cls(tuple(arms), tuple(wrists), boxes[0], _boxes("keep_out", keep_out), float(wrist_distance_m))

    def inside(self, q: np.ndarray) -> np.ndarray:
        """Whether each posture (N, J), left arm then right, rad, breaks nothing: bool (N,). NaN is never inside.

        Raises ValueError for another shape.
        """
        outside, entered, near = self._broken(self._points(q))
        return ~(outside.any(axis=(1, 2)) | entered.any(axis=(1, 2)) | near)

    def violations(self, q: np.ndarray) -> list[str]:
        """What each posture (N, J) breaks, in words: bound, link and value. Raises ValueError for another shape."""
        points = self._points(q)
        broken, links, held = self._broken(points), self._links, self._held
        words = []
        for n, i, axis in np.argwhere(broken.outside):
            low, high = self.box[:, axis]
            value = points[n, held[i], axis]
            words.append(f"posture[{n}]: {links[held[i]]} is at {'xyz'[axis]} {value:.4f} m, outside [{low}, {high}]")
        for n, k, link in np.argwhere(broken.entered):
            low, high = self.keep_out[k].tolist()
            place = points[n, link].round(4).tolist()
            words.append(f"posture[{n}]: {links[link]} is at {place} m, in keep-out box {k} from {low} to {high}")
        for n in np.flatnonzero(broken.near):
            distance, least = self._distance(points)[n], self.wrist_distance_m
            words.append(f"posture[{n}]: {' and '.join(self.wrists)} are {distance:.4f} m apart, less than {least}")
        return words

    def _broken(self, points: np.ndarray) -> Broken:
        """Of points (N, links, 3). Comparisons are such that NaN breaks a bound."""
        low, high = self.box
        held = points[:, self._held]
        outside = ~((low <= held) & (held <= high))
        low, high = (self.keep_out[:, corner, None] for corner in (0, 1))
        entered = ~((points[:, None] < low) | (points[:, None] > high)).any(axis=-1)
        near = ~(self._distance(points) >= self.wrist_distance_m)
        return Broken(outside, entered, near)

    def _points(self, q: np.ndarray) -> np.ndarray:
        """(N, links, 3) of left arm and right."""
        q = np.asarray(q, np.float64)
        left, right = self.arms
        size = len(left.joints) + len(right.joints)
        if q.ndim != 2 or q.shape[1] != size:
            raise ValueError(f"postures have shape {q.shape}; (N, {size}) was expected")
        own, other = np.split(q, [len(left.joints)], axis=1)
        return np.concatenate([left.positions(own), right.positions(other)], axis=1)

    def _distance(self, points: np.ndarray) -> np.ndarray:
        left, right = (self._links.index(wrist) for wrist in self.wrists)
        return np.linalg.norm(points[:, left] - points[:, right], axis=1)

    @property
    def _links(self) -> tuple[str, ...]:
        return self.arms[0].links + self.arms[1].links

    @property
    def _held(self) -> list[int]:
        """The links that stay in the box: wrists and tips."""
        tips = (arm.links[-1] for arm in self.arms)
        return [self._links.index(link) for link in (*self.wrists, *tips)]


def _boxes(name: str, numbers: Sequence[float]) -> np.ndarray:
    """float64 (K, 2, 3)."""
    if len(numbers) % BOX:
        raise ValueError(f"{name} has {len(numbers)} numbers; a box has {BOX}: lowest x, y, z, highest x, y, z")
    boxes = np.asarray(numbers, np.float64).reshape(-1, 2, 3)
    for low, high in boxes:
        if not (low < high).all():
            raise ValueError(
                f"{name} reaches from {low.tolist()} to {high.tolist()}; the first must lie below the second"
            )
    return boxes
