"""What an AgiBot G1 says of itself, as faults in words. Names and codes after GDK 1.5; not verified on hardware."""

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


def arm_state(side: str, code: int) -> str:
    """A fault in words; empty while the arm is in control."""
    return "" if code == IN_CONTROL else f"{side} arm: {code:#x}, {ARM_STATES.get(code, 'not in control')}"


def whole_body(status: Any) -> list[str]:
    """Faults in a WholeBodyStatus of genie_msgs. Raises AttributeError for one with other fields."""
    errors = {part.replace("_", " "): getattr(status, f"{part}_error") for part in PARTS}
    faults = [f"{part}: error {error:#x}" for part, error in errors.items() if error]
    faults += [f"{side} arm: the e-stop is pressed" for side in SIDES if getattr(status, f"{side}_arm_estop")]
    faults += [f"{side} arm: not in control" for side in SIDES if not getattr(status, f"{side}_arm_control")]
    return faults


def motion_control(status: Any) -> list[str]:
    """Faults in a MotionControlStatus of genie_msgs. Raises AttributeError for one with other fields."""
    faults = [] if status.mode == SERVO else [f"mode of motion control is {status.mode}, not {SERVO}"]
    if status.error.has_error:
        faults.append(f"motion control: {status.error}")
    pairs = zip_longest(status.collision_pairs_1, status.collision_pairs_2, fillvalue="something")
    return faults + [f"collision: {one} and {other}" for one, other in pairs]


def robot_status(status: Any) -> list[str]:
    """Faults in a RobotStatus of this package."""
    faults = [] if status.mode == SERVO else [f"mode of motion control is {status.mode}, not {SERVO}"]
    faults += ["the e-stop is pressed"] * bool(status.estop)
    return faults + list(status.errors) + [f"collision: {pair}" for pair in status.collisions]


class Reports:
    """The newest faults of each source. One that has spoken and is then silent for `timeout_s` is a fault itself; one
    that has never spoken is one where it is `required`, and else a note."""

    def __init__(self, sources: Sequence[str], timeout_s: float, required: Collection[str] = ()) -> None:
        self._sources, self._timeout_s, self._required = sources, timeout_s, required
        self._heard: dict[str, tuple[float, list[str]]] = {}

    def hear(self, source: str, faults: list[str], now_s: float) -> None:
        self._heard[source] = now_s, faults

    def health(self, now_s: float) -> Health:
        faults = [fault for _, said in self._heard.values() for fault in said]
        for source, (at_s, _) in self._heard.items():
            if now_s - at_s > self._timeout_s:
                faults.append(f"{source} has been silent for {now_s - at_s:.1f} s")
        unheard = [source for source in self._sources if source not in self._heard]
        faults += [f"{source} has not spoken" for source in unheard if source in self._required]
        notes = tuple(f"{source} has not spoken" for source in unheard if source not in self._required)
        return Health(tuple(dict.fromkeys(faults)), notes)
