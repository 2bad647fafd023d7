"""What a robot is to its bridge: where joints and grippers stand in an action, and what a gripper's number means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ABSOLUTE, DELTA = "absolute", "delta"


@dataclass(frozen=True)
class Gripper:
    """opened, closed: the robot's own values, such as 0 and 120 mm. In an action 0 is open and 1 is closed."""

    name: str
    opened: float
    closed: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.opened, self.closed]).all() and self.opened != self.closed):
            raise ValueError(
                f"gripper {self.name!r} is open at {self.opened} and closed at {self.closed}; give two values"
            )

    def command(self, closure: float) -> float:
        """In the robot's own values; closure in [0, 1]."""
        return self.opened + closure * (self.closed - self.opened)

    def closure(self, measured: float) -> float:
        """In [0, 1], of what the robot says."""
        return float(np.clip((measured - self.opened) / (self.closed - self.opened), 0, 1))


@dataclass(frozen=True)
class Layout:
    """Of an action of A entries: joints, the J entries that are joints in the robot's order; grippers, the G that are
    grippers. kind: whether a joint's entry is its position or the change of it, rad. Raises ValueError for entries that
    are named twice or never."""

    joints: Sequence[int]
    grippers: Sequence[int] = ()
    kind: str = ABSOLUTE

    def __post_init__(self) -> None:
        named = sorted([*self.joints, *self.grippers])
        if named != list(range(len(named))) or not self.joints:
            raise ValueError(f"an action has entries 0 to {len(named) - 1}, but joints and grippers name {named}")
        if self.kind not in (ABSOLUTE, DELTA):
            raise ValueError(f"kind of action is {self.kind!r}; there are {ABSOLUTE!r} and {DELTA!r}")

    def split(self, chunk: np.ndarray, posture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets of the joints (H, J), rad, and closures of the grippers (H, G), of a chunk (H, A). posture: (J,), the
        command that deltas add up from. Raises ValueError for another shape."""
        size = len(self.joints) + len(self.grippers)
        if np.ndim(chunk) != 2 or chunk.shape[1] != size:
            raise ValueError(f"an action chunk has shape {np.shape(chunk)}; (H, {size}) was expected")
        targets = chunk[:, list(self.joints)].astype(np.float64)
        if self.kind == DELTA:
            targets = posture + np.cumsum(targets, axis=0)
        return targets, chunk[:, list(self.grippers)].astype(np.float64)
