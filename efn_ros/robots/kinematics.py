# SPDX-License-Identifier: MIT
"""Forward kinematics of a serial chain from a URDF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

REVOLUTE, PRISMATIC, FIXED = ("revolute", "continuous"), ("prismatic",), ("fixed",)
DEFAULT_AXIS = "1 0 0"  # of a URDF


@dataclass(frozen=True)
class Chain:
    """The links from a base, which is not among them, to a tip; made by `from_urdf`."""

    links: tuple[str, ...]  # names
    joints: tuple[str, ...]  # names of the J joints that move, in the order of a posture
    low: np.ndarray  # float64 (J,), lower limits, rad or m; infinite where there is none
    high: np.ndarray  # float64 (J,), upper limits, likewise
    terms: np.ndarray  # float64 (4, links, 4, 4), see `frames`
    moved: np.ndarray  # (J,), index of the link that each joint moves

    @classmethod
    def from_urdf(cls, path: str | Path, base: str, tip: str) -> Chain:
        """Return the chain between two links of a URDF.

        Raises:
            ValueError: The URDF holds no such chain; the message names the link or the joint.
        """
        try:
            robot = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            raise ValueError(f"{path} is not XML: {error}") from error
        joints = _between(robot, base, tip)
        moving = [joint for joint in joints if joint.get("type") not in FIXED]
        bounds = np.array([_bounds(joint) for joint in moving]).reshape(-1, 2)
        return cls(
            links=tuple(_end(joint, "child") for joint in joints),
            joints=tuple(joint.get("name", "") for joint in moving),
            low=bounds[:, 0],
            high=bounds[:, 1],
            terms=np.stack([_terms(joint) for joint in joints], axis=1),
            moved=np.flatnonzero([joint.get("type") not in FIXED for joint in joints]),
        )

    def frames(self, q: np.ndarray) -> np.ndarray:
        """Return the frame of every link in the frame of the base.

        From a link to the next it is terms[0] + sin q terms[1] + (1 - cos q) terms[2] + q terms[3]: the joint's origin,
        Rodrigues' formula for its rotation, and its translation.

        Args:
            q: Postures (N, J), rad or m.

        Returns:
            float64 (N, links, 4, 4).

        Raises:
            ValueError: The postures have another shape.
        """
        q = np.asarray(q, np.float64)
        if q.ndim != 2 or q.shape[1] != len(self.joints):
            raise ValueError(f"postures have shape {q.shape}; (N, {len(self.joints)}) was expected")
        weights = np.zeros((len(q), 4, len(self.links)))
        weights[:, 0] = 1.0
        weights[:, 1:, self.moved] = np.stack([np.sin(q), 1.0 - np.cos(q), q], axis=1)
        frames = np.einsum("nkl,klij->nlij", weights, self.terms)
        for link in range(1, len(self.links)):
            frames[:, link] = frames[:, link - 1] @ frames[:, link]
        return frames

    def forward(self, q: np.ndarray) -> np.ndarray:
        """Return the frame of the tip in the frame of the base, float64 (N, 4, 4); arguments are those of `frames`."""
        return self.frames(q)[:, -1]

    def positions(self, q: np.ndarray) -> np.ndarray:
        """Return the origin of every link's frame, float64 (N, links, 3), m; arguments are those of `frames`."""
        return self.frames(q)[:, :, :3, 3]


def _between(robot: ElementTree.Element, base: str, tip: str) -> list[ElementTree.Element]:
    """Return the joints from `base` to `tip`, at least one."""
    links = [link.get("name") for link in robot.findall("link")]
    for name in (base, tip):
        if name not in links:
            raise ValueError(f"link {name!r} is not in the URDF; choose one of {', '.join(map(str, links))}")
    joint_to = {_end(joint, "child"): joint for joint in robot.findall("joint")}
    joints, link = [], tip
    while link != base:
        if link not in joint_to or len(joints) > len(joint_to):
            raise ValueError(f"no joints lead from link {base!r} to link {tip!r}; the path back ends at {link!r}")
        joints.insert(0, joint_to[link])
        link = _end(joint_to[link], "parent")
    if not joints:
        raise ValueError(f"link {base!r} is both base and tip; a chain has at least one joint")
    return joints


def _end(joint: ElementTree.Element, tag: str) -> str:
    """Return the parent or the child link of a joint."""
    element = joint.find(tag)
    if element is None:
        raise ValueError(f"joint {joint.get('name')!r} has no <{tag}>")
    return element.get("link", "")


def _terms(joint: ElementTree.Element) -> np.ndarray:
    """Return the matrices (4, 4, 4) of one joint in `Chain.frames`."""
    terms = np.zeros((4, 4, 4))
    terms[0] = np.eye(4)
    kind = joint.get("type")
    if kind in REVOLUTE:
        x, y, z = _axis(joint)
        cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        terms[1, :3, :3], terms[2, :3, :3] = cross, cross @ cross
    elif kind in PRISMATIC:
        terms[3, :3, 3] = _axis(joint)
    elif kind not in FIXED:
        known = ", ".join(REVOLUTE + PRISMATIC + FIXED)
        raise ValueError(f"joint {joint.get('name')!r} is of type {kind!r}; a chain may have {known}")
    return _origin(joint) @ terms


def _origin(joint: ElementTree.Element) -> np.ndarray:
    """Return the frame (4, 4) of a joint in its parent's; "rpy" are angles about the fixed axes x, y, z, in order."""
    frame = np.eye(4)
    (rx, ry, rz), frame[:3, 3] = (_vector(joint, "origin", name, "0 0 0") for name in ("rpy", "xyz"))
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(angle), math.cos(angle)) for angle in (rx, ry, rz))
    frame[:3, :3] = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return frame


def _axis(joint: ElementTree.Element) -> np.ndarray:
    if joint.find("mimic") is not None:
        raise ValueError(f"joint {joint.get('name')!r} mimics another; a chain supports no mimic joints")
    axis = _vector(joint, "axis", "xyz", DEFAULT_AXIS)
    if not axis.any():
        raise ValueError(f"joint {joint.get('name')!r} has the axis {axis.tolist()}; it must not be zero")
    return axis / np.linalg.norm(axis)


def _bounds(joint: ElementTree.Element) -> tuple[float, float]:
    if joint.get("type") == "continuous":
        return -math.inf, math.inf
    low, high = (_vector(joint, "limit", name, size=1)[0] for name in ("lower", "upper"))
    if not low <= high:
        raise ValueError(f"joint {joint.get('name')!r} has the limits {low} and {high}; the lower is above the upper")
    return low, high


def _vector(joint: ElementTree.Element, tag: str, name: str, default: str | None = None, size: int = 3) -> np.ndarray:
    element = joint.find(tag)
    text = default if element is None else element.get(name, default)
    try:
        values = np.array([float(word) for word in (text or "").split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (size,) or not np.isfinite(values).all():
        raise ValueError(f"joint {joint.get('name')!r}: {name!r} of <{tag}> is {text!r}; {size} numbers were expected")
    return values
