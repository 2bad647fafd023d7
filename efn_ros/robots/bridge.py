# SPDX-License-Identifier: MIT
"""State machine of a robot's bridge: at every command period, its state, the reason, and what may be sent.

Times are seconds of one monotonic clock. For messages stamped by another clock, the caller passes their age.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np

from efn_ros.robots.description import Layout, Timeouts
from efn_ros.robots.joint_states import JointStates
from efn_ros.robots.motion import RefusedActionError
from efn_ros.robots.streaming import Stream, TrackingError

PAUSE_PERIODS = 5  # command periods without a tick after which the robot is at rest at its last command


class State(enum.Enum):
    """State of a bridge."""

    IDLE = "idle"  # nothing is sent until the start
    HOLDING = "holding"  # the last posture is sent
    TRACKING = "tracking"  # actions are followed
    YIELDED = "yielded"  # another operator commands the robot, nothing is sent
    STOPPED = "stopped"  # latched, nothing is sent until `reset`


MOVING = (State.HOLDING, State.TRACKING)  # states in which commands are sent


class StartRefusedError(RuntimeError):
    """Motion may not begin; the message names every condition that does not hold."""


@dataclass(frozen=True)
class Health:
    """Status of a robot."""

    faults: tuple[str, ...] = ()  # each forbids motion
    notes: tuple[str, ...] = ()  # status that is missing
    unready: tuple[str, ...] = ()  # each forbids only to begin motion


@dataclass(frozen=True)
class Command:
    """Result of one command period."""

    state: State  # of the bridge
    reason: str  # of the state; empty while tracking
    posture: np.ndarray | None = None  # to send, (J,), rad; None: send nothing
    closures: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (G,) in [0, 1]; NaN: leave the gripper alone
    halt: bool = False  # command the robot to stop; true once for every stop


class Bridge:
    """Feeds a `Stream` with actions and decides whether its commands may be sent.

    Only `reset` leaves STOPPED, and only if motion may begin.

    Attributes:
        state: The present state.
        reason: Its reason; empty while tracking.
        health: Status of the robot, set by the caller.
        counts: Actions followed, late, repeated and refused.
    """

    def __init__(self, stream: Stream, layout: Layout, action_rate_hz: float, timeouts: Timeouts | None = None) -> None:
        """Create an idle bridge.

        Args:
            stream: Makes the commands.
            layout: Entries of an action.
            action_rate_hz: Rows of an action chunk a second.
            timeouts: Limits on the age of inputs; None: the defaults.
        """
        self._stream, self._layout, self._rate_hz = stream, layout, action_rate_hz
        self._timeouts = timeouts or Timeouts()
        self.state, self.reason, self._started = State.IDLE, "not started", False
        self.health = Health(notes=("no status of the robot was received",))
        self.counts = dict.fromkeys(("actions", "late", "repeated", "refused"), 0)
        self._joint_states = JointStates(len(stream.limits.low), self._timeouts)
        self._stale_since_s, self._last_tick_s = np.inf, -np.inf
        self._clear_actions()
        self._last_closures = np.full(len(layout.grippers), np.nan)

    def update_joint_states(self, posture: np.ndarray, stamp_ns: int, now_s: float) -> None:
        """Receive joint states.

        Args:
            posture: Joint positions (J,), rad, in the layout's order.
            stamp_ns: Their stamp, of the robot's clock.
            now_s: The present time.

        Raises:
            ValueError: They are no posture; the message names the joint. The ones before stay valid.
        """
        self._joint_states.update(posture, stamp_ns, now_s, self._stream.posture, moving=self.state in MOVING)

    def act(self, chunk: np.ndarray, episode: str, step: int, age_s: float, now_s: float) -> None:
        """Follow an action chunk from now on. A late, repeated or refused one is counted and changes nothing.

        Args:
            chunk: Action chunk (H, A).
            episode: Its episode.
            step: Index of its decision.
            age_s: Age of its observation, s.
            now_s: The present time.
        """
        if self.state not in MOVING:
            return
        if not abs(age_s) <= self._timeouts.late_s:
            self.counts["late"] += 1
            if self._late_s and now_s - self._late_s[-1] > self._timeouts.stop_s:
                self._late_s = []  # a new series begins after a pause
            self._late_s = self._late_s[:1] + [now_s]
            self._drop_reason = f"the observation behind the last action is {age_s:.3f} s old"
            return
        if episode == self._episode and step <= self._step:
            self.counts["repeated"] += 1
            return
        try:
            targets, closures = self._layout.split(chunk, self._stream.posture)
            if not np.isfinite(closures).all():
                raise RefusedActionError("a gripper's closure is not finite")
            self._stream.follow(targets, self._rate_hz, now_s)
        except ValueError as error:  # RefusedActionError is one
            self.counts["refused"] += 1
            self._drop_reason = f"refused: {error}"
            return
        self.counts["actions"] += 1
        self._episode, self._step, self._last_action_s = episode, step, now_s
        self._late_s, self._drop_reason = [], ""
        self._closures = np.clip(closures, 0, 1)

    def unmet_conditions(self, now_s: float, *, resetting: bool = False) -> list[str]:
        """Return why motion may not begin; empty if it may. With `resetting`, a stop is no reason."""
        unmet = [f"it is stopped ({self.reason})"] * (self.state == State.STOPPED and not resetting)
        unmet += [*self.health.faults, *self.health.unready]
        unrest = self._joint_states.unrest(now_s)
        return [*unmet, unrest] if unrest else unmet

    def start(self, now_s: float) -> None:
        """Hold where the robot is.

        Raises:
            StartRefusedError: A condition does not hold; the message names all of them.
        """
        self._begin_motion(now_s)
        self._started = True
        self.state, self.reason = State.HOLDING, "no action was received"

    def stop(self, reason: str) -> None:
        """Stop in any state; latched."""
        self.state, self.reason, self._halt = State.STOPPED, reason, True

    def reset(self, now_s: float) -> None:
        """Leave STOPPED: hold where the robot is, or be idle if the bridge was not started.

        Raises:
            StartRefusedError: A condition of a start does not hold; the bridge stays stopped.
        """
        if self.state == State.STOPPED:
            self._begin_motion(now_s, resetting=True)
            self.state, self.reason = (State.HOLDING, "reset") if self._started else (State.IDLE, "not started")

    def hand_over(self) -> None:
        """Come to rest, then send nothing until `take_back`.

        Raises:
            StartRefusedError: The bridge is neither holding nor tracking.
        """
        if self.state not in MOVING:
            raise StartRefusedError(f"only motion can be handed over; it is {self.state.value} ({self.reason})")
        self._yielding = True

    def take_back(self, now_s: float) -> None:
        """Hold where the robot is after a hand-over.

        Raises:
            StartRefusedError: The robot was not handed over, or a condition of a start does not hold.
        """
        if self.state != State.YIELDED:
            raise StartRefusedError(f"the robot was not handed over; it is {self.state.value}")
        self.start(now_s)

    def brake(self) -> None:
        """Come to rest and follow no action until the next start."""
        self._braking = True

    def deactivate(self) -> None:
        """Send nothing; a stop stays latched."""
        self._started = False
        if self.state != State.STOPPED:
            self.state, self.reason = State.IDLE, "not started"

    @property
    def at_rest(self) -> bool:
        """Whether no motion is unfinished, so that commands may end here."""
        return self.state not in MOVING or self._stream.at_rest

    def tick(self, now_s: float) -> Command:
        """Return what to do in this command period; to be called once in each.

        After a pause of the caller, motion begins again at rest from the last command.
        """
        posture = None
        if now_s - self._last_tick_s > PAUSE_PERIODS * self._stream.period_s:
            self._stream.assume_rest()
            if self._joint_states.age_s(now_s) > self._timeouts.state_s:  # joint states that wait may be fresh
                self._stale_since_s = now_s
        self._last_tick_s = now_s
        if self.state in MOVING:
            self._update_state(now_s)
        if self.state in MOVING:
            try:
                posture = self._stream.command(now_s, self._joint_states.posture)
            except TrackingError as error:
                self.stop(str(error))
        halt, self._halt = self._halt, False
        if self.state == State.TRACKING and self._closures is not None:
            row = np.clip((now_s - self._last_action_s) * self._rate_hz, 0, len(self._closures) - 1)
            self._last_closures = self._closures[int(row)]
        return Command(self.state, self.reason, posture, self._last_closures.copy(), halt)

    def _update_state(self, now_s: float) -> None:
        """Decide whether to track, hold or stop, and why."""
        timeouts, age_s = self._timeouts, self._joint_states.age_s(now_s)
        if age_s <= timeouts.state_s:
            self._stale_since_s = np.inf
        elif np.isinf(self._stale_since_s):
            self._stale_since_s = now_s - (age_s - timeouts.state_s)
        if self.health.faults:
            self.stop("; ".join(self.health.faults))
        elif now_s - self._stale_since_s > timeouts.stop_s:
            self.stop(f"joint states are {age_s:.3f} s old")
        elif self._joint_states.frozen:
            self.stop("joint states have not changed while commands went on")
        elif self._late_s and self._late_s[-1] - self._late_s[0] > timeouts.stop_s:
            self.stop(self._drop_reason)
        else:
            silent_s = now_s - self._last_action_s
            reason = ""
            if age_s > timeouts.state_s:
                reason = f"joint states are more than {timeouts.state_s:g} s old"
            elif silent_s > timeouts.action_s:
                reason = self._drop_reason
                reason = reason or ("no action was received" if np.isinf(silent_s) else "actions have ceased")
            reason = "braking" if self._braking else "handing over" if self._yielding else reason
            if reason:
                self._stream.hold()
            self.state, self.reason = (State.HOLDING, reason) if reason else (State.TRACKING, "")
            if self._yielding and self._stream.at_rest:
                self.state, self.reason = State.YIELDED, "handed over"

    def _begin_motion(self, now_s: float, *, resetting: bool = False) -> None:
        """Clear the past and be at rest where the robot is."""
        unmet = self.unmet_conditions(now_s, resetting=resetting)
        if not unmet:
            try:
                self._stream.start(self._joint_states.posture)
            except ValueError as error:
                unmet = [str(error)]
        if unmet:
            raise StartRefusedError("; ".join(unmet))
        self._clear_actions()
        self._joint_states.begin_motion()
        self._stale_since_s, self._last_tick_s = np.inf, now_s
        self._last_closures[:] = np.nan

    def _clear_actions(self) -> None:
        self._episode, self._step, self._last_action_s = "", -1, -np.inf
        self._late_s: list[float] = []  # times of the first and the last action of a series of late ones
        self._drop_reason, self._halt, self._yielding, self._braking = "", False, False, False
        self._closures: np.ndarray | None = None  # of the chunk that is followed, (H, G)
