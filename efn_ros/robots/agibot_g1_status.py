# SPDX-License-Identifier: MIT
"""Status messages of an AgiBot G1 as lists of faults.

Names and codes are those of GDK 1.5, not verified on hardware.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

from efn_ros.robots.bridge import Health

SERVO = 1  # mode of motion control in which joints follow commands
IN_CONTROL = 0x1
ARM_STATES = {
    0x1002: "out of range",
    0x1007: "too fast",
    0x1009: "acceleration too high",
    0x100A: "acceleration too high",
    0x100D: "collision",
    0x1012: "self-collision",
    0x1014: "soft limit",
}
SIDES = ("left", "right")
PARTS = ("left_arm", "right_arm", "left_end", "right_end", "waist", "lift", "neck", "chassis")


def arm_fault(side: str, code: int) -> str:
    """Describe the state code of an arm; empty while the arm is in control."""
    return "" if code == IN_CONTROL else f"{side} arm: {code:#x}, {ARM_STATES.get(code, 'not in control')}"


def whole_body_faults(status: Any) -> list[str]:
    """List the faults in a WholeBodyStatus of genie_msgs.

    Raises:
        AttributeError: The message has other fields.
    """
    errors = {part.replace("_", " "): getattr(status, f"{part}_error") for part in PARTS}
    faults = [f"{part}: error {error:#x}" for part, error in errors.items() if error]
    faults += [f"{side} arm: the e-stop is pressed" for side in SIDES if getattr(status, f"{side}_arm_estop")]
    faults += [f"{side} arm: not in control" for side in SIDES if not getattr(status, f"{side}_arm_control")]
    return faults


def motion_control_faults(status: Any) -> list[str]:
    """List the faults in a MotionControlStatus of genie_msgs.

    Raises:
        AttributeError: The message has other fields.
    """
    faults = _mode_faults(status.mode)
    if status.error.has_error:
        faults.append(f"motion control: {status.error}")
    pairs = zip_longest(status.collision_pairs_1, status.collision_pairs_2, fillvalue="an unknown part")
    return faults + [f"collision: {one} and {other}" for one, other in pairs]


def robot_status_faults(status: Any) -> list[str]:
    """List the faults in a RobotStatus of this package."""
    faults = _mode_faults(status.mode) + ["the e-stop is pressed"] * bool(status.estop)
    return faults + list(status.errors) + [f"collision: {pair}" for pair in status.collisions]


def _mode_faults(mode: int) -> list[str]:
    return [] if mode == SERVO else [f"mode of motion control is {mode}, not {SERVO}"]


class StatusMonitor:
    """Latest faults of each source of status messages.

    A source that published once and is then silent for `timeout_s` is a fault. One that never published is a fault if
    it is required, and a note otherwise.
    """

    def __init__(self, sources: Sequence[str], timeout_s: float, required: Collection[str] = ()) -> None:
        """Expect messages of the sources."""
        self._sources, self._timeout_s, self._required = sources, timeout_s, required
        self._latest: dict[str, tuple[float, list[str]]] = {}  # source -> time of its last message, s, and its faults

    def update(self, source: str, faults: list[str], now_s: float) -> None:
        """Set the faults of a source."""
        self._latest[source] = now_s, faults

    def health(self, now_s: float) -> Health:
        """Return the status of the robot as the sources report it."""
        faults = [fault for _, reported in self._latest.values() for fault in reported]
        for source, (at_s, _) in self._latest.items():
            if now_s - at_s > self._timeout_s:
                faults.append(f"{source} has been silent for {now_s - at_s:.1f} s")
        missing = [source for source in self._sources if source not in self._latest]
        faults += [f"no message of {source} was received" for source in missing if source in self._required]
        notes = tuple(f"no message of {source} was received" for source in missing if source not in self._required)
        return Health(tuple(dict.fromkeys(faults)), notes)
