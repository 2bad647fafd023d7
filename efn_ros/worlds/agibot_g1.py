"""A simulated AgiBot G1 as its driver shows it, for dry runs: what is commanded, refused, measured and seen.

Nothing of it was compared with a robot. What it does is known from:

* The manual of GDK 1.5. A command is 14 absolute joint positions every 10 ms, less than 0.2618 rad from the measured
  ones, at most 3 rad/s and 6 rad/s^2. Grippers take the millimetres that they are closed by, 0 to 120. Modes: 0 stop,
  1 servo, 2 planning. A motion stop by input type 54 is stop mode; control mode 1 clears it. Codes, there the system
  error of an arm: 0x1002 target beyond its limit, 0x1007 joint too fast, 0x1009 over the speed limit, 0x100A over the
  acceleration limit. An emergency stop locks the hardware.
* Other sources, not found in the manual's text: 0x1 in control, 0x100D collision, 0x1012 self-collision, 0x1014 soft
  limit; and that all of these are read from `arm_state`.
* A public URDF: the joints' ranges.

The rest is guessed:

* A refused command moves nothing and latches both arms; the arm whose joint is at fault shows the code, which is 0x1002
  for a target too far from its joint. Speed and acceleration of commands are judged from one to the next, from the
  first after a start on, as if 10 ms apart. 0x1007 never occurs by itself.
* A soft limit latches when a joint comes within 0.02 rad of its range's end; a collision when two links, or a link and
  a thing, begin to touch. How bodies are shaped is a guess too.
* Without control the arms brake with 6 rad/s^2 and hold, the grippers stop, and commands do nothing. Control mode 1
  clears latched codes, though not while the button is pressed; after its release it is needed too. An unknown input
  type or mode is ignored.
* A command that is not renewed is held for ever. The servo follows with a pure delay as far as speed, acceleration and
  range allow. Grippers move at 120 mm/s, clip their commands and report no noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from efn_ros.robots.agibot_g1 import JOINTS, READY, load_arms
from efn_ros.worlds.agibot_g1_scene import LEFT, RIGHT, STROKE_MM, G1Scene, owner

GDK = 54  # who stops and starts, in `input_type`
SPEED, ACCELERATION = 3.0, 6.0  # rad/s and rad/s^2, of the servo and of commands
FARTHEST_RAD = 0.2618  # a target is nearer than this to where its joint is
COMMAND_PERIOD_S = 0.01  # from one command to the next
SOFT_LIMIT_RAD = 0.02  # before the end of a joint's range
GRIPPER_MM_S = 120.0
ROUNDING_RAD = 1e-6  # of commands that travelled as float32
ARM = len(JOINTS) // 2
SIDES = ("left", "right")


class Mode(IntEnum):
    STOP = 0
    SERVO = 1
    PLANNING = 2


class ArmState(IntEnum):
    IDLE = 0x0
    IN_CONTROL = 0x1
    OUT_OF_RANGE = 0x1002
    JOINT_OVERSPEED = 0x1007
    TOO_FAST = 0x1009
    TOO_SUDDEN = 0x100A
    COLLISION = 0x100D
    SELF_COLLISION = 0x1012
    SOFT_LIMIT = 0x1014


@dataclass(frozen=True)
class G1State:
    """What the robot says of itself.

    stamp_s: on the plant's clock. positions: float64 (14,), left arm then right, measured, rad. grippers_mm: float64
    (2,), mm closed. arm_states: left, right. estop: the button is pressed. collision_pairs: links that touch.
    """

    stamp_s: float
    positions: np.ndarray
    grippers_mm: np.ndarray
    mode: Mode
    arm_states: tuple[ArmState, ArmState]
    estop: bool
    collision_pairs: tuple[tuple[str, str], ...]


class G1Plant:
    """Two arms and two grippers on a clock of their own; head, waist and wheels stand still. Not thread-safe.

    low, high: float64 (14,), the joints' ranges, rad.
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
        """At rest at `start`, (14,) rad, grippers open, in servo mode.

        dt_s: of a step. delay_s: from a command to the motion, a multiple of dt_s. noise_rad: standard deviation of a
        measurement. check_rates: refuse commands for their speed and acceleration, which a lost command exceeds too.
        image_size: height and width. Raises ValueError naming what is wrong.
        """
        steps = _steps(delay_s, dt_s)
        if not 0 <= noise_rad < np.inf:
            raise ValueError(f"noise_rad is {noise_rad}; it must be finite and at least 0")
        arms = load_arms()
        self.low, self.high = (np.concatenate([getattr(arm, name) for arm in arms]) for name in ("low", "high"))
        self._at = _vector("start", start, len(JOINTS))
        if not ((self.low <= self._at) & (self._at <= self.high)).all():
            raise ValueError(f"start is {self._at.tolist()}, outside the joints' ranges")
        self._dt, self._noise, self._check_rates = dt_s, noise_rad, check_rates
        self._rng = np.random.default_rng(seed)
        self._scene = G1Scene(image_size)
        self._ticks, self._frozen, self._estop, self._mode = 0, False, False, Mode.SERVO
        self._codes = [0, 0]  # latched, 0 for none
        self._injected: frozenset[tuple[str, str]] = frozenset()
        self._motion = np.zeros(len(JOINTS))  # rad a step
        self._grippers = self._gripper_targets = np.zeros(2)
        self._targets: deque[np.ndarray] = deque(maxlen=steps + 2)  # the one before, the present one, those to come
        self._commands: deque[np.ndarray] = deque(maxlen=2)
        self._hold()
        self._pairs, self._ended = self._scene.pose(self._at, self._grippers), self._ending()
        self._measure()

    # Commands, as they come from outside.

    def command_arms(self, positions: Sequence[float]) -> None:
        """Joint positions (14,), rad. Raises ValueError for another number of them."""
        target = _vector("arm command", positions, len(JOINTS))
        if not self.in_control:
            return
        codes = self._judge(target)
        if any(codes):
            self._latch(codes)
        else:
            self._commands.append(target)

    def command_grippers(self, closed_mm: Sequence[float]) -> None:
        """Left and right, mm closed. Raises ValueError for another number of them; what is no number is ignored."""
        closed = _vector("gripper command", closed_mm, len(SIDES))
        if self.in_control:
            clipped = np.clip(closed, 0.0, STROKE_MM)
            self._gripper_targets = np.where(np.isnan(closed), self._gripper_targets, clipped)

    def stop_motion(self, input_type: int = GDK) -> None:
        if input_type == GDK:
            self._mode = Mode.STOP
            self._hold()

    def set_control_mode(self, mode: int, input_type: int = GDK) -> None:
        if input_type != GDK or self._estop or mode not in tuple(Mode):
            return
        self._mode = Mode(mode)
        if self._mode == Mode.SERVO:
            self._codes = [0, 0]
        else:
            self._hold()

    # Faults, for tests.

    def freeze(self, frozen: bool = True) -> None:
        """Whether measurements keep their values while stamps go on."""
        self._frozen = frozen

    def press_estop(self, pressed: bool = True) -> None:
        self._estop, self._mode = pressed, Mode.STOP
        self._hold()

    def fail(self, side: str, code: int) -> None:
        """Latch an error of the arm "left" or "right". Raises ValueError for another side or an unknown code."""
        if side not in SIDES:
            raise ValueError(f"arm {side!r} is unknown; there are {' and '.join(SIDES)}")
        self._latch([ArmState(code) if side == each else 0 for each in SIDES])

    def collide(self, pairs: Iterable[tuple[str, str]]) -> None:
        """From the next step on these links touch too, until other pairs, or none, are given."""
        self._injected = frozenset((first, second) for first, second in pairs)

    # Time, and what the robot shows.

    @property
    def in_control(self) -> bool:
        return self._mode == Mode.SERVO and not self._estop and not any(self._codes)

    @property
    def state(self) -> G1State:
        working = ArmState.IN_CONTROL if self.in_control else ArmState.IDLE
        return G1State(
            stamp_s=self._ticks * self._dt,
            positions=self._measured.copy(),
            grippers_mm=self._measured_grippers.copy(),
            mode=self._mode,
            arm_states=tuple(ArmState(code or working) for code in self._codes),
            estop=self._estop,
            collision_pairs=tuple(sorted(self._pairs)),
        )

    def step(self) -> G1State:
        """Let dt_s pass."""
        self._ticks += 1
        if self.in_control:
            self._targets.append(self._commands[-1] if self._commands else self._targets[-1])
            self._move(self._follow())
        else:
            self._move(np.zeros_like(self._motion))
            self._hold()
        self._watch()
        self._measure()
        return self.state

    def look(self) -> dict[str, np.ndarray]:
        """Camera name (head, hand_left, hand_right) to uint8 (height, width, 3) RGB, always in the same thread."""
        return self._scene.look()

    def close(self) -> None:
        self._scene.close()

    def _judge(self, target: np.ndarray) -> list[int]:
        """The code with which each arm refuses the target (14,), 0 where it does not."""
        stream = [*self._commands, target] if self._check_rates else [target]
        near = np.abs(target - self._at) < FARTHEST_RAD
        allowed = near & (self.low <= target) & (target <= self.high)  # NaN is not
        codes = np.where(allowed, 0, ArmState.OUT_OF_RANGE)
        for order, limit, code in ((2, ACCELERATION, ArmState.TOO_SUDDEN), (1, SPEED, ArmState.TOO_FAST)):
            if len(stream) > order:
                change = np.abs(np.diff(stream, order, axis=0)[-1])
                beyond = change > limit * COMMAND_PERIOD_S**order + 2**order * ROUNDING_RAD
                codes = np.where(allowed & beyond, code, codes)
        return [next(filter(None, arm), 0) for arm in codes.reshape(2, ARM).tolist()]

    def _latch(self, codes: Sequence[int]) -> None:
        self._codes = [before or code for before, code in zip(self._codes, codes, strict=True)]
        self._hold()

    def _hold(self) -> None:
        """Forget what was commanded: the target is where the arms are."""
        self._commands.clear()
        self._targets.extend([self._at.copy()] * self._targets.maxlen)
        self._gripper_targets = self._grippers

    def _follow(self) -> np.ndarray:
        """The motion (14,), rad a step, with the target's own and towards it, that can still stop within the range."""
        before, target = self._targets[0], self._targets[1]
        behind = before - self._at
        wanted = target - before + np.copysign(self._stoppable(np.abs(behind)), behind)
        return np.clip(wanted, -self._stoppable(self._at - self.low), self._stoppable(self.high - self._at))

    def _stoppable(self, room: np.ndarray) -> np.ndarray:
        """The largest motion, rad a step, that ends after `room` when it loses a step's acceleration at every step.

        In m steps it covers m motion - a m (m - 1) / 2, and m is the least with which a m (m + 1) / 2 is enough.
        """
        most = ACCELERATION * self._dt**2
        room = np.maximum(room, 0.0)
        m = np.maximum(np.ceil((np.sqrt(1 + 8 * room / most) - 1) / 2), 1)
        return room / m + most * (m - 1) / 2

    def _move(self, wanted: np.ndarray) -> None:
        fastest, most = SPEED * self._dt, ACCELERATION * self._dt**2
        motion = np.clip(np.clip(wanted, -fastest, fastest), self._motion - most, self._motion + most)
        there = np.clip(self._at + motion, self.low, self.high)  # against rounding
        self._motion, self._at = there - self._at, there
        stroke = GRIPPER_MM_S * self._dt
        self._grippers = self._grippers + np.clip(self._gripper_targets - self._grippers, -stroke, stroke)

    def _watch(self) -> None:
        """Latch the codes of joints that come near their ends, and of pairs of links that begin to touch."""
        ending = self._ending()
        codes = [ArmState.SOFT_LIMIT if arm.any() else 0 for arm in (ending & ~self._ended).reshape(2, ARM)]
        pairs = self._scene.pose(self._at, self._grippers) | self._injected
        for pair in sorted(pairs - self._pairs):
            codes = [code or touch for code, touch in zip(codes, self._touch(pair), strict=True)]
        self._ended, self._pairs = ending, pairs
        if any(codes):
            self._latch(codes)

    def _ending(self) -> np.ndarray:
        return np.minimum(self._at - self.low, self.high - self._at) < SOFT_LIMIT_RAD

    def _touch(self, pair: tuple[str, str]) -> list[int]:
        """The code of each arm for what touches; both arms' where it is neither's."""
        code = ArmState.SELF_COLLISION if self._scene.links.issuperset(pair) else ArmState.COLLISION
        owners = {owner(name) for name in pair}
        sides = owners & {LEFT, RIGHT} or {LEFT, RIGHT}
        return [code if side in sides else 0 for side in (LEFT, RIGHT)]

    def _measure(self) -> None:
        noise = self._rng.normal(0.0, self._noise, len(JOINTS))
        if not self._frozen:
            self._measured, self._measured_grippers = self._at + noise, self._grippers


def _steps(delay_s: float, dt_s: float) -> int:
    if not 0 < dt_s < np.inf:
        raise ValueError(f"dt_s is {dt_s}; it must be positive and finite")
    if not 0 <= delay_s < np.inf or not np.isclose(round(delay_s / dt_s) * dt_s, delay_s):
        raise ValueError(f"delay_s is {delay_s}; it must be a multiple of dt_s, {dt_s}, and at least 0")
    return round(delay_s / dt_s)


def _vector(name: str, values: Sequence[float], size: int) -> np.ndarray:
    """float64 (size,)."""
    vector = np.array(values, np.float64)
    if vector.shape != (size,):
        raise ValueError(f"{name} has shape {vector.shape}; ({size},) was expected")
    return vector
