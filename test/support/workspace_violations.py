# SPDX-License-Identifier: MIT
"""Violated bounds of a workspace as text, computed apart from `Workspace.inside`, for tests and failure messages."""

from __future__ import annotations

import numpy as np

from efn_ros.robots.workspace import Workspace


def positions(workspace: Workspace, posture: np.ndarray) -> dict[str, np.ndarray]:
    """Return the origin of every link's frame (3,), m, of one posture (J,)."""
    places = {}
    for arm, q in zip(workspace.arms, np.split(np.asarray(posture), 2), strict=True):
        places.update(zip(arm.links, arm.positions(q[None])[0], strict=True))
    return places


def violations(workspace: Workspace, q: np.ndarray) -> list[str]:
    """Return one line for every bound that a posture (N, J) violates: bound, link and value."""
    return [f"posture[{n}]: {text}" for n, posture in enumerate(q) for text in _violations(workspace, posture)]


def _violations(workspace: Workspace, posture: np.ndarray) -> list[str]:
    places, found = positions(workspace, posture), []
    tips = [arm.links[-1] for arm in workspace.arms]
    for link in (*workspace.wrists, *tips):
        for axis, value, low, high in zip("xyz", places[link], *workspace.box, strict=True):
            if not low <= value <= high:
                found.append(f"{link} is at {axis} {value:.4f} m, outside [{low}, {high}]")
    for k, (low, high) in enumerate(workspace.keep_out):
        for link, place in places.items():
            if not ((place < low) | (place > high)).any():
                box = f"keep-out box {k} from {low.tolist()} to {high.tolist()}"
                found.append(f"{link} is at {place.round(4).tolist()} m, in {box}")
    distance = np.linalg.norm(np.subtract(*(places[wrist] for wrist in workspace.wrists)))
    if not distance >= workspace.wrist_distance_m:
        names = " and ".join(workspace.wrists)
        found.append(f"{names} are {distance:.4f} m apart, less than {workspace.wrist_distance_m}")
    return found
