# SPDX-License-Identifier: MIT
"""Workspace of two arms: bounds that hold for points, the origins of the links' frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from efn_ros.robots.kinematics import Chain

BOX = 6  # numbers: lowest x, y, z, then highest x, y, z


@dataclass(frozen=True)
class Workspace:
    """Bounds in the frame of the arms' common base, m; made by `create`."""

    arms: tuple[Chain, Chain]  # left and right
    wrists: tuple[str, str]  # a link of each arm
    box: np.ndarray  # float64 (2, 3), lowest and highest corner for wrists and tips, infinite where there is no bound
    keep_out: np.ndarray  # float64 (K, 2, 3), boxes that no link may enter
    wrist_distance_m: float  # least distance of the two wrists; 0: no bound

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
        """Create a workspace; an empty argument is no bound.

        Args:
            arms: Left and right.
            wrists: A link of each arm.
            box: Six numbers, lowest x, y, z and highest x, y, z, that wrists and tips stay in, m.
            keep_out: Boxes that no link may enter, six numbers each, m.
            wrist_distance_m: Least distance of the two wrists.

        Raises:
            ValueError: A bound is invalid; the message names it.
        """
        for arm, wrist in zip(arms, wrists, strict=True):
            if wrist not in arm.links:
                raise ValueError(f"wrist {wrist!r} is no link of its arm; choose one of {', '.join(arm.links)}")
        if not 0 <= wrist_distance_m < np.inf:
            raise ValueError(f"wrist_distance_m is {wrist_distance_m}; it must be finite and at least 0")
        everywhere = np.array([[[-np.inf] * 3, [np.inf] * 3]])
        boxes = _boxes("box", box) if len(box) else everywhere
        if len(boxes) > 1:
            raise ValueError(f"box has {len(box)} numbers; one box has {BOX}")
        return cls(arms, wrists, boxes[0], _boxes("keep_out", keep_out), float(wrist_distance_m))

    def inside(self, q: np.ndarray) -> np.ndarray:
        """Return whether each posture is within all bounds.

        Args:
            q: Joint positions (N, J), left arm then right, rad.

        Returns:
            bool (N,); False for a posture with NaN.

        Raises:
            ValueError: The postures have another shape.
        """
        q = np.asarray(q, np.float64)
        left, right = self.arms
        size = len(left.joints) + len(right.joints)
        if q.ndim != 2 or q.shape[1] != size:
            raise ValueError(f"postures have shape {q.shape}; (N, {size}) was expected")
        own, other = np.split(q, [len(left.joints)], axis=1)
        points = np.concatenate([left.positions(own), right.positions(other)], axis=1)  # (N, links, 3)
        bounded, keep_out = points[:, self._bounded], self.keep_out[:, :, None]
        low, high = self.box
        in_box = np.all((low <= bounded) & (bounded <= high), axis=(1, 2))
        clear = np.any((points[:, None] < keep_out[:, 0]) | (points[:, None] > keep_out[:, 1]), axis=-1)
        distance = np.linalg.norm(bounded[:, 0] - bounded[:, 1], axis=1)
        return in_box & np.all(clear, axis=(1, 2)) & (distance >= self.wrist_distance_m)

    @cached_property
    def _bounded(self) -> list[int]:
        """Links that the box bounds: the two wrists, then the two tips."""
        links = self.arms[0].links + self.arms[1].links
        return [links.index(link) for link in (*self.wrists, *(arm.links[-1] for arm in self.arms))]


def _boxes(name: str, numbers: Sequence[float]) -> np.ndarray:
    """Return boxes, float64 (K, 2, 3), from six numbers each."""
    if len(numbers) % BOX:
        raise ValueError(f"{name} has {len(numbers)} numbers; a box has {BOX}: lowest x, y, z, highest x, y, z")
    boxes = np.asarray(numbers, np.float64).reshape(-1, 2, 3)
    for low, high in boxes:
        if not (low < high).all():
            raise ValueError(
                f"{name} reaches from {low.tolist()} to {high.tolist()}; the first must lie below the second"
            )
    return boxes
