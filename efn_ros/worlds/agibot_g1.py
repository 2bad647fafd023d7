# SPDX-License-Identifier: MIT
"""A simulated AgiBot G1 for dry runs: it takes the commands of the robot, refuses some, and shows states and images.

Its behaviour was not compared with a robot. What is known comes from:

* The manual of GDK 1.5. A command is 14 absolute joint positions every 10 ms, less than 0.2618 rad from the measured
  ones, at most 3 rad/s and 6 rad/s^2. Grippers take the millimetres by which they are closed, 0 to 120. Modes: 0 stop,
  1 servo, 2 planning. A motion stop of input type 54 sets stop mode; control mode 1 ends it. Codes, which the manual
  lists as system errors of an arm: 0x1002 target beyond its limit, 0x1007 joint too fast, 0x1009 over the speed limit,
  0x100A over the acceleration limit. An emergency stop locks the hardware.
* Other sources, not confirmed by the manual: 0x1 in control, 0x100D collision, 0x1012 self-collision, 0x1014 soft
  limit; and that `arm_state` holds all of these codes.
* A public URDF: the ranges of the joints.

The rest is assumed:

* A refused command moves nothing and latches both arms. The arm of the joint at fault shows the code, which is 0x1002
  for a target too far from its joint. Speed and acceleration are those between consecutive commands, from the first
  after a start on, as if they were 10 ms apart. 0x1007 never occurs by itself.
* A soft limit latches when a joint comes within 0.02 rad of the end of its range; a collision latches when two links,
  or a link and an object, begin to touch. The shapes of the bodies are assumed too.
* Without control the arms brake with 6 rad/s^2 and hold, the grippers stop, and commands have no effect. Control mode 1
  clears latched codes, but not while the emergency stop is pressed; it is also needed after the release. An unknown
  input type or mode is ignored.
* A command that is not renewed is held for ever. The servo follows with a pure delay, as far as speed, acceleration and
  range allow. Grippers move at 120 mm/s, clip their commands and have no measurement noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from efn_ros.robots.agibot_g1 import JOINTS, READY, load_arms
from efn_ros.worlds.agibot_g1_scene import LEFT, RIGHT, STROKE_MM, G1Scene, owner
from efn_ros.worlds.agibot_g1_servo import ACCELERATION, SPEED, Servo

GDK = 54  # `input_type` of stops and starts by this interface
MAX_DISTANCE_RAD = 0.2618  # a target must be nearer than this to the position of its joint
COMMAND_PERIOD_S = 0.01
SOFT_LIMIT_RAD = 0.02  # before the end of a joint's range
GRIPPER_MM_S = 120.0
ROUNDING_RAD = 1e-6  # of commands that were float32
ARM = len(JOINTS) // 2
SIDES = ("left", "right")


class Mode(IntEnum):
    """Mode of motion control."""

    STOP = 0
    SERVO = 1
    PLANNING = 2


class ArmState(IntEnum):
    """Code that an arm shows."""

    IDLE = 0x0
    IN_CONTROL = 0x1
    OUT_OF_RANGE = 0x1002
    JOINT_OVERSPEED = 0x1007
    OVER_SPEED = 0x1009
    OVER_ACCELERATION = 0x100A
    COLLISION = 0x100D
    SELF_COLLISION = 0x1012
    SOFT_LIMIT = 0x1014


@dataclass(frozen=True)
class G1State:
    """What the robot reports."""

    stamp_s: float  # on the plant's own clock
    positions: np.ndarray  # float64 (14,), left arm then right, measured, rad
    grippers_mm: np.ndarray  # float64 (2,), by which they are closed
    mode: Mode  # of the robot's controller
    arm_states: tuple[ArmState, ArmState]  # left, right
    estop: bool  # the emergency stop is pressed
    collision_pairs: tuple[tuple[str, str], ...]  # names of links or objects that touch


class G1Plant:
    """Two arms and two grippers with their own clock; head, waist and wheels do not move. Not thread-safe.

    Attributes:
        low: float64 (14,), lower ends of the joints' ranges, rad.
        high: float64 (14,), upper ends.
    """

    def __init__(
        self,
        *,
        dt_s: float = 0.01,
        delay_s: float = 0.02,
        noise_rad: float = 0.0005,
        seed: int = 0,
        start: Sequence[float] = READY,
        check_rates: bool = True,
        image_size: tuple[int, int] = (96, 128),
    ) -> None:
        """Begin at rest, in servo mode, with open grippers.

        Args:
            dt_s: Duration of a step.
            delay_s: From a command to the motion, a multiple of `dt_s`.
            noise_rad: Standard deviation of a measured position.
            seed: Of that noise.
            start: (14,), rad.
            check_rates: Refuse commands for their speed and acceleration; a lost command makes the next one too fast.
            image_size: Height and width of the images, pixels.

        Raises:
            ValueError: An argument does not fit; the message names it.
        """
        delay_steps = _delay_steps(delay_s, dt_s)
        if not 0 <= noise_rad < np.inf:
            raise ValueError(f"noise_rad is {noise_rad}; it must be finite and at least 0")
        arms = load_arms()
        self.low, self.high = (np.concatenate([getattr(arm, name) for arm in arms]) for name in ("low", "high"))
        position = _vector("start", start, len(JOINTS))
        if not ((self.low <= position) & (position <= self.high)).all():
            raise ValueError(f"start is {position.tolist()}, outside the joints' ranges")
        self._dt, self._noise, self._check_rates = dt_s, noise_rad, check_rates
        self._rng = np.random.default_rng(seed)
        self._scene = G1Scene(image_size)
        self._servo = Servo(self.low, self.high, position, dt_s=dt_s, delay_steps=delay_steps)
        self._ticks, self._frozen, self._estop, self._mode = 0, False, False, Mode.SERVO
        self._codes = [0, 0]  # latched, 0 for none
        self._injected: frozenset[tuple[str, str]] = frozenset()
        self._grippers = self._gripper_targets = np.zeros(len(SIDES))  # mm closed
        self._commands: deque[np.ndarray] = deque(maxlen=2)  # the latest that were accepted
        self._pairs, self._near_limit = self._scene.pose(position, self._grippers), self._find_near_limit()
        self._measure()

    # Commands

    def command_arms(self, positions: Sequence[float]) -> None:
        """Command joint positions (14,), rad.

        Raises:
            ValueError: The number of positions differs.
        """
        target = _vector("arm command", positions, len(JOINTS))
        if not self.in_control:
            return
        codes = self._check_command(target)
        if any(codes):
            self._latch(codes)
        else:
            self._commands.append(target)

    def command_grippers(self, closed_mm: Sequence[float]) -> None:
        """Command how far the left and the right gripper are closed, mm; NaN is ignored.

        Raises:
            ValueError: The number of grippers differs.
        """
        closed = _vector("gripper command", closed_mm, len(SIDES))
        if self.in_control:
            clipped = np.clip(closed, 0.0, STROKE_MM)
            self._gripper_targets = np.where(np.isnan(closed), self._gripper_targets, clipped)

    def stop_motion(self, input_type: int = GDK) -> None:
        """Stop: the arms brake and hold until `set_control_mode`."""
        if input_type == GDK:
            self._mode = Mode.STOP
            self._hold()

    def set_control_mode(self, mode: int, input_type: int = GDK) -> None:
        """Set the mode of motion control; servo mode clears latched codes."""
        if input_type != GDK or self._estop or mode not in tuple(Mode):
            return
        self._mode = Mode(mode)
        if self._mode == Mode.SERVO:
            self._codes = [0, 0]
        else:
            self._hold()

    # Faults, for tests

    def freeze(self, frozen: bool = True) -> None:
        """Keep the measured values as they are, while stamps and arms go on."""
        self._frozen = frozen

    def press_estop(self, pressed: bool = True) -> None:
        """Press or release the emergency stop."""
        self._estop, self._mode = pressed, Mode.STOP
        self._hold()

    def fail(self, side: str, code: int) -> None:
        """Latch an error code of the arm "left" or "right".

        Raises:
            ValueError: The side or the code is unknown.
        """
        if side not in SIDES:
            raise ValueError(f"arm {side!r} is unknown; choose {' or '.join(SIDES)}")
        self._latch([ArmState(code) if side == each else 0 for each in SIDES])

    def collide(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Let these pairs of links touch too, from the next step on; no pairs end it."""
        self._injected = frozenset(pairs)

    # Time, states and images

    @property
    def in_control(self) -> bool:
        """Whether commands are followed."""
        return self._mode == Mode.SERVO and not self._estop and not any(self._codes)

    @property
    def state(self) -> G1State:
        """The present state."""
        working = ArmState.IN_CONTROL if self.in_control else ArmState.IDLE
        left, right = (ArmState(code or working) for code in self._codes)
        return G1State(
            stamp_s=self._ticks * self._dt,
            positions=self._measured.copy(),
            grippers_mm=self._measured_grippers.copy(),
            mode=self._mode,
            arm_states=(left, right),
            estop=self._estop,
            collision_pairs=tuple(sorted(self._pairs)),
        )

    def step(self) -> G1State:
        """Let `dt_s` pass, and return the state."""
        self._ticks += 1
        stroke = GRIPPER_MM_S * self._dt
        self._grippers = self._grippers + np.clip(self._gripper_targets - self._grippers, -stroke, stroke)
        if self.in_control:
            self._servo.follow(self._commands[-1] if self._commands else None)
        else:
            self._servo.brake()
        self._latch_limits_and_contacts()
        self._measure()
        return self.state

    def images(self) -> dict[str, np.ndarray]:
        """Return the images of all cameras, as `G1Scene.images`."""
        return self._scene.images()

    def close(self) -> None:
        """Release the renderer."""
        self._scene.close()

    def _check_command(self, target: np.ndarray) -> list[int]:
        """The code with which each arm refuses the target (14,), 0 if it does not."""
        commands = [*self._commands, target] if self._check_rates else [target]
        near = np.abs(target - self._servo.position) < MAX_DISTANCE_RAD
        allowed = near & (self.low <= target) & (target <= self.high)  # NaN is not
        codes = np.where(allowed, 0, ArmState.OUT_OF_RANGE)
        for order, limit, code in ((2, ACCELERATION, ArmState.OVER_ACCELERATION), (1, SPEED, ArmState.OVER_SPEED)):
            if len(commands) > order:
                change = np.abs(np.diff(commands, order, axis=0)[-1])
                beyond = change > limit * COMMAND_PERIOD_S**order + 2**order * ROUNDING_RAD
                codes = np.where(allowed & beyond, code, codes)
        return [next(filter(None, arm), 0) for arm in codes.reshape(2, ARM).tolist()]

    def _latch(self, codes: Sequence[int]) -> None:
        self._codes = [before or code for before, code in zip(self._codes, codes, strict=True)]
        self._hold()

    def _hold(self) -> None:
        """Drop all commands: the targets are the present positions."""
        self._commands.clear()
        self._servo.hold()
        self._gripper_targets = self._grippers

    def _latch_limits_and_contacts(self) -> None:
        """Latch the codes of joints that come near the end of their range, and of pairs that begin to touch."""
        near = self._find_near_limit()
        codes = [ArmState.SOFT_LIMIT if arm.any() else 0 for arm in (near & ~self._near_limit).reshape(2, ARM)]
        pairs = self._scene.pose(self._servo.position, self._grippers) | self._injected
        for pair in sorted(pairs - self._pairs):
            codes = [code or touch for code, touch in zip(codes, self._contact_codes(pair), strict=True)]
        self._near_limit, self._pairs = near, pairs
        if any(codes):
            self._latch(codes)

    def _find_near_limit(self) -> np.ndarray:
        position = self._servo.position
        return np.minimum(position - self.low, self.high - position) < SOFT_LIMIT_RAD

    def _contact_codes(self, pair: tuple[str, str]) -> list[int]:
        """The code of each arm for two links that touch; both arms have it if neither touches."""
        code = ArmState.SELF_COLLISION if self._scene.links.issuperset(pair) else ArmState.COLLISION
        sides = {owner(name) for name in pair} & {LEFT, RIGHT} or {LEFT, RIGHT}
        return [code if side in sides else 0 for side in (LEFT, RIGHT)]

    def _measure(self) -> None:
        noise = self._rng.normal(0.0, self._noise, len(JOINTS))
        if not self._frozen:
            self._measured, self._measured_grippers = self._servo.position + noise, self._grippers


def _delay_steps(delay_s: float, dt_s: float) -> int:
    if not 0 < dt_s < np.inf:
        raise ValueError(f"dt_s is {dt_s}; it must be positive and finite")
    if not 0 <= delay_s < np.inf or not np.isclose(round(delay_s / dt_s) * dt_s, delay_s):
        raise ValueError(f"delay_s is {delay_s}; it must be a multiple of dt_s, {dt_s}, and at least 0")
    return round(delay_s / dt_s)


def _vector(name: str, values: Sequence[float], size: int) -> np.ndarray:
    vector = np.array(values, np.float64)
    if vector.shape != (size,):
        raise ValueError(f"{name} has shape {vector.shape}; ({size},) was expected")
    return vector
