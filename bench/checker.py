# SPDX-License-Identifier: MIT
"""Check that commands to the arms of the AgiBot G1 are within every limit.

It shares no code with the bridge: it compares commands with one another and with measured joint states, and takes the
places of the links from MuJoCo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import mujoco
import numpy as np

from efn_ros.robots.agibot_g1 import BASE, JOINTS, TIPS, URDF, WRISTS

DERIVATIVES = ("velocity", "acceleration", "jerk")
# Seconds between commands: above GAP_S they may count as a pause, above PAUSE_S they must.
GAP_S, PAUSE_S = 0.04, 0.06
START_RAD = 0.005  # largest distance of the first command after a pause from where the robot is
ROUNDING = 1e-9  # rad; a third difference at 100 Hz is of the size of 1e-5

Stamped = Sequence[tuple[float, np.ndarray]]  # (stamp, posture (J,)), s and rad


class Checker:
    """Checks one command after another.

    Attributes:
        broken: Name of a limit -> commands outside of it.
        checked: Commands that were checked.
    """

    def __init__(self, p: dict) -> None:
        """Take the limits from the parameters of the bridge."""
        each = lambda name: np.asarray(p[f"joints.{name}"]) * np.ones(len(JOINTS))  # noqa: E731
        self.low, self.high, self.tracking = each("low"), each("high"), each("tracking")
        rates = [each(name) * p["speed_scale"] for name in DERIVATIVES]
        self._bounds = [rate / p["command_rate_hz"] ** order for order, rate in enumerate(rates, 1)]
        spec = mujoco.MjSpec.from_file(str(URDF))
        spec.compiler.fusestatic = False  # or fixed links would lose their names
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._joints = [self._model.joint(name).qposadr[0] for name in JOINTS]
        self._links = np.concatenate([_chain(self._model, tip) for tip in TIPS])
        self._wrists = [self._model.body(wrist).id for wrist in WRISTS]
        self._hands = [*self._wrists, *(self._model.body(tip).id for tip in TIPS)]
        self._base = self._model.body(BASE).id
        box, keep_out = p["workspace.box"], p["workspace.keep_out"]
        self._box = np.reshape(box if len(box) > 1 else [-np.inf] * 3 + [np.inf] * 3, (2, 3))
        self._keep_out = np.reshape(keep_out if len(keep_out) > 1 else [], (-1, 2, 3))
        self._min_distance_m = p["workspace.wrists_apart_m"]
        self.broken, self.checked = Counter(), 0
        self.begin_topic()

    def begin_topic(self) -> None:
        """Begin with a robot that has received no command."""
        self._last: tuple[float, np.ndarray] | None = None
        self.begin()

    def begin(self) -> None:
        """Take the next command as the first one, of a robot that is at rest there."""
        self._sent: list[np.ndarray] = []

    def pause(self) -> None:
        """Take the robot to be at rest at the last command."""
        self._sent = self._sent[-1:] * 3

    def check(self, command: np.ndarray, *measured: np.ndarray) -> None:
        """Check a command (J,), rad.

        Args:
            command: After those that were checked since `begin`.
            *measured: Joint states (J,) of which the command must track at least one.
        """
        self.checked += 1
        if not np.isfinite(command).all() or (command < self.low).any() or (command > self.high).any():
            self.broken["position"] += 1
        if all((np.abs(command - state) > self.tracking + ROUNDING).any() for state in measured):
            self.broken["tracking"] += 1
        self._sent = (self._sent or [command] * 3)[-3:] + [command]
        for order, (name, bound) in enumerate(zip(DERIVATIVES, self._bounds, strict=True), 1):
            if (np.abs(np.diff(self._sent[-order - 1 :], order, axis=0)) > bound * (1 + 1e-6) + ROUNDING).any():
                self.broken[name] += 1
        self._check_workspace(command)

    def check_topic(self, commands: Stamped, measured: Stamped, max_age_s: float) -> None:
        """Check the commands of a topic, continuing after those of the call before.

        After a pause the first command must be where the last one was, or where the robot is.

        Args:
            commands: In their order.
            measured: Joint states, in their order.
            max_age_s: Of the joint states that a command may track.
        """
        stamps = np.array([at for at, _ in measured])
        for at, command in commands:
            last = self._last
            states = [state for _, state in measured[slice(*np.searchsorted(stamps, (at - max_age_s, at)))]]
            gap_s = np.inf if last is None else at - last[0]
            stayed = last is not None and np.abs(command - last[1]).max() <= self._bounds[-1].max()
            if gap_s > GAP_S and stayed:
                self.pause()
            elif gap_s > PAUSE_S:
                places = states if last is None else [*states, last[1]]
                if states and min(np.abs(command - place).max() for place in places) > START_RAD:
                    self.broken["start"] += 1
                self.begin()
            self.check(command, *states) if states else self.check(command, command)
            self._last = at, command

    def _check_workspace(self, command: np.ndarray) -> None:
        data = self._data
        data.qpos[self._joints] = command
        mujoco.mj_kinematics(self._model, data)
        places = (data.xpos - data.xpos[self._base]) @ data.xmat[self._base].reshape(3, 3)
        hands, links = places[self._hands], places[self._links]
        if (hands < self._box[0] - ROUNDING).any() or (hands > self._box[1] + ROUNDING).any():
            self.broken["box"] += 1
        for low, high in self._keep_out:
            if ((links > low + ROUNDING) & (links < high - ROUNDING)).all(axis=1).any():
                self.broken["keep-out"] += 1
        if np.linalg.norm(places[self._wrists[0]] - places[self._wrists[1]]) < self._min_distance_m - ROUNDING:
            self.broken["wrists"] += 1


def _chain(model: mujoco.MjModel, tip: str) -> list[int]:
    """Bodies from behind the base to the tip."""
    body, chain = model.body(tip).id, []
    while body != model.body(BASE).id:
        chain.append(body)
        body = model.body_parentid[body]
    return chain
