# SPDX-License-Identifier: MIT
"""Description of a robot for its bridge: its grippers, the layout of an action, and timeouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ABSOLUTE, DELTA = "absolute", "delta"


@dataclass(frozen=True)
class Gripper:
    """A gripper; in an action 0 is open and 1 is closed.

    Raises:
        ValueError: The two values are equal or not finite.
    """

    name: str  # as the robot names it
    opened: float  # the robot's own value of an open gripper, such as 0 mm
    closed: float  # the robot's own value of a closed gripper, such as 120 mm

    def __post_init__(self) -> None:
        if not (np.isfinite([self.opened, self.closed]).all() and self.opened != self.closed):
            raise ValueError(
                f"gripper {self.name!r} is open at {self.opened} and closed at {self.closed}; give two finite values "
                "that differ"
            )

    def command(self, closure: float) -> float:
        """Return the robot's own value of a closure in [0, 1]."""
        return self.opened + closure * (self.closed - self.opened)

    def closure(self, measured: float) -> float:
        """Return the closure in [0, 1] of a value that the robot measured."""
        return float(np.clip((measured - self.opened) / (self.closed - self.opened), 0, 1))


@dataclass(frozen=True)
class Layout:
    """Entries of an action, A = J + G.

    Raises:
        ValueError: An entry is named twice or never, or the kind is unknown.
    """

    joints: Sequence[int]  # J entries that are joints, in the robot's order
    grippers: Sequence[int] = ()  # G entries that are grippers
    kind: str = ABSOLUTE  # whether a joint's entry is its position or the change of it, rad

    def __post_init__(self) -> None:
        named = sorted([*self.joints, *self.grippers])
        if named != list(range(len(named))) or not self.joints:
            raise ValueError(f"an action has entries 0 to {len(named) - 1}, but joints and grippers name {named}")
        if self.kind not in (ABSOLUTE, DELTA):
            raise ValueError(f"kind of action is {self.kind!r}; choose {ABSOLUTE!r} or {DELTA!r}")

    def split(self, chunk: np.ndarray, posture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split a chunk into joint targets and gripper closures.

        Args:
            chunk: Action chunk (H, A).
            posture: Last command (J,), rad, to which changes are added.

        Returns:
            Targets of the joints, float64 (H, J), rad, and closures of the grippers, float64 (H, G).

        Raises:
            ValueError: The chunk has another shape.
        """
        size = len(self.joints) + len(self.grippers)
        if np.ndim(chunk) != 2 or chunk.shape[1] != size:
            raise ValueError(f"an action chunk has shape {np.shape(chunk)}; (H, {size}) was expected")
        targets = chunk[:, list(self.joints)].astype(np.float64)
        if self.kind == DELTA:
            targets = posture + np.cumsum(targets, axis=0)
        return targets, chunk[:, list(self.grippers)].astype(np.float64)


@dataclass(frozen=True)
class Timeouts:
    """Limits of a bridge on the age of its inputs, and what counts as rest and as frozen.

    Raises:
        ValueError: A value is not positive and finite.
    """

    state_s: float = 0.1  # age of the joint states beyond which the bridge holds, s
    action_s: float = 0.056  # time since the last action beyond which it holds, s; with a command period: two of 30 Hz
    late_s: float = 0.2  # age of an action beyond which it is dropped, s
    stop_s: float = 0.2  # time of old joint states or late actions after which it stops, s
    rest_s: float = 0.1  # window in which the arms must rest before motion begins, s
    rest_rad: float = 0.01  # largest motion within that window, rad
    frozen_rad: float = 0.03  # largest change of the command while no measured position changes, rad

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < np.inf:
                raise ValueError(f"{name} is {value}; it must be positive and finite")
