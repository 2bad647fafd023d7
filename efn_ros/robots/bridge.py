"""What a robot's bridge does at every command period: which state it is in, why, and what may be sent.

Times are seconds of one monotonic clock; the ages of what came with stamps of another clock are handed in.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np

from efn_ros.robots.description import Layout
from efn_ros.robots.motion import RefusedActionError
from efn_ros.robots.streaming import Stream, TrackingError

SAME = 5  # joint states in a row that do not differ, before they count as frozen
DRIFT = 1e-4  # s/s, by which the robot's clock may fall behind this one's
PAUSE = 5  # command periods without a tick, after which the robot stands still where it was told to be last


class State(enum.Enum):
    """IDLE: nothing is sent, until it is started. HOLDING: the last posture is sent. TRACKING: actions are followed.
    YIELDED: somebody else operates the robot, nothing is sent. STOPPED: latched, nothing is sent until `reset`."""

    IDLE = "idle"
    HOLDING = "holding"
    TRACKING = "tracking"
    YIELDED = "yielded"
    STOPPED = "stopped"


class StartRefusedError(RuntimeError):
    """Why motion may not begin; the message names every condition that does not hold."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds. state_s: age of joint states, action_s: since the last action, beyond which it holds. late_s: age of an
    action beyond which it is dropped. stop_s: how long it holds for old states or late actions before it stops. rest_s,
    rest_rad: the arms are at rest where they have moved by less in so long. frozen_rad: commands may go on by so much
    while not one measured position changes; it stops beyond."""

    state_s: float = 0.1
    action_s: float = 0.056  # with a command period of 0.01 s more: two periods of 30 Hz
    late_s: float = 0.2
    stop_s: float = 0.2
    rest_s: float = 0.1
    rest_rad: float = 0.01
    frozen_rad: float = 0.03

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < np.inf:
                raise ValueError(f"{name} is {value}; it must be positive and finite")


@dataclass(frozen=True)
class Health:
    """What the robot says of itself: faults, in words, each of which forbids motion, and notes, of what it does not
    say. unready: what forbids only that motion begins."""

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """What to do now. posture: (J,), rad, to be sent; None: nothing. closures: (G,), NaN where a gripper is left alone.
    halt: tell the robot to stop, once at every new reason."""

    state: State
    reason: str
    posture: np.ndarray | None = None
    closures: np.ndarray = field(default_factory=lambda: np.zeros(0))
    halt: bool = False


class Bridge:
    """Feeds a `Stream` with actions and decides whether its commands may be sent.

    Nothing but `reset` leads out of STOPPED, and that only where motion may begin anew.
    """

    def __init__(self, stream: Stream, layout: Layout, action_rate_hz: float, timeouts: Timeouts | None = None) -> None:
        self._stream, self._layout, self._rate_hz = stream, layout, action_rate_hz
        self._timeouts = timeouts or Timeouts()
        self.state, self.reason, self._started = State.IDLE, "not started", False
        self.health = Health(notes=("the robot has said nothing of itself",))
        self.counts = dict.fromkeys(("actions", "late", "repeated", "refused"), 0)
        self._seen: list[tuple[float, np.ndarray]] = []  # postures of the last rest_s, with their times
        self._stamp_ns, self._heard_s, self._least_lag_s = -1, -np.inf, np.inf
        self._old_s, self._ticked_s = np.inf, -np.inf  # since when states are old, and of the last tick
        self._forget_actions()
        self._closed = np.full(len(layout.grippers), np.nan)

    def measured(self, posture: np.ndarray, stamp_ns: int, now_s: float) -> None:
        """Joint states (J,), rad, in the layout's order. Those whose stamp does not grow are not news, unless it went
        back by more than the while in which nothing was heard: then the robot's clock was set back. Raises ValueError,
        naming the joint, for what is no posture; the one before stays then."""
        posture = np.asarray(posture, np.float64)
        if posture.shape != np.shape(self._stream.limits.low):
            raise ValueError(
                f"joint states hold {posture.size} positions; {len(self._stream.limits.low)} were expected"
            )
        if not np.isfinite(posture).all():
            joint = int(np.argmin(np.isfinite(posture)))
            raise ValueError(f"the position of joint {joint} is {posture[joint]}")
        if stamp_ns <= self._stamp_ns:
            silent_s, back_s = now_s - self._heard_s, (self._stamp_ns - stamp_ns) * 1e-9
            if not self._timeouts.state_s < silent_s < back_s:
                return
            self._least_lag_s = np.inf
        at_s = self._measured_at(stamp_ns, now_s)
        self._stamp_ns, self._heard_s = stamp_ns, now_s
        commanded = self._stream.posture
        if not self._seen or self._moved_at is None or not np.array_equal(posture, self._seen[-1][1]):
            self._moved_at, self._same, self._frozen = commanded, 0, False
        else:
            self._same += 1
            went_on = (np.abs(commanded - self._moved_at) > self._timeouts.frozen_rad).any()
            self._frozen = bool(went_on) and self._same >= SAME
        self._seen = [seen for seen in self._seen if at_s - seen[0] <= 2 * self._timeouts.rest_s]
        self._seen.append((at_s, posture))

    def _measured_at(self, stamp_ns: int, now_s: float) -> float:
        """When that was, on this clock. What took longer than the quickest since motion began was late by the
        difference: clocks need not agree, and may drift apart."""
        if self.state not in (State.HOLDING, State.TRACKING):
            self._least_lag_s = np.inf
        lag_s = now_s - stamp_ns * 1e-9
        drifted = DRIFT * (now_s - self._heard_s) if np.isfinite(self._heard_s) else 0.0
        self._least_lag_s = min(lag_s, self._least_lag_s + drifted)
        return now_s - (lag_s - self._least_lag_s)

    def act(self, chunk: np.ndarray, episode: str, step: int, age_s: float, now_s: float) -> None:
        """Follow an action chunk (H, A) from now on. age_s: of what it answers. Late, repeated and refused ones are
        counted and leave everything as it is."""
        if self.state not in (State.HOLDING, State.TRACKING):
            return
        if not abs(age_s) <= self._timeouts.late_s:
            self.counts["late"] += 1
            if self._late_s and now_s - self._late_s[-1] > self._timeouts.stop_s:
                self._late_s = []  # after a silence it begins anew
            self._late_s = self._late_s[:1] + [now_s]
            self._dropped = f"the last action answers what was seen {age_s:.3f} s ago"
            return
        if episode == self._episode and step <= self._step:
            self.counts["repeated"] += 1
            return
        try:
            targets, closures = self._layout.split(chunk, self._stream.posture)
            if not np.isfinite(closures).all():
                raise RefusedActionError("a gripper's closure is not finite")
            self._stream.follow(targets, self._rate_hz, now_s)
        except ValueError as error:  # a refused action is one
            self.counts["refused"] += 1
            self._dropped = f"refused: {error}"
            return
        self.counts["actions"] += 1
        self._episode, self._step, self._acted_s = episode, step, now_s
        self._late_s, self._dropped = [], ""
        self._closures = np.clip(closures, 0, 1)

    def start(self, now_s: float) -> None:
        """Hold where the robot is. Raises StartRefusedError, naming every condition that does not hold."""
        self._begin(now_s)
        self._started = True
        self.state, self.reason = State.HOLDING, "no action has come"

    def against_start(self, now_s: float, *, resetting: bool = False) -> list[str]:
        """Why motion may not begin, in words; empty where it may. resetting: a stop is no reason."""
        against = [f"it is stopped ({self.reason})"] * (self.state == State.STOPPED and not resetting)
        against += [*self.health.faults, *self.health.unready]
        age_s = self._age_s(now_s)
        if age_s > self._timeouts.state_s:
            against.append("no joint states have come" if np.isinf(age_s) else f"joint states are {age_s:.3f} s old")
            return against
        spoken_s = self._seen[-1][0] - self._seen[0][0]
        if spoken_s < self._timeouts.rest_s:
            against.append(f"joint states have come for {spoken_s:.3f} s only")
            return against
        rest_s, latest_s = self._timeouts.rest_s, self._seen[-1][0]
        moved = np.ptp(np.stack([posture for at, posture in self._seen if latest_s - at <= rest_s]), axis=0)
        if (moved > self._timeouts.rest_rad).any():
            joint = int(np.argmax(moved))
            against.append(f"joint {joint} is moving: by {moved[joint]:.4f} rad in {self._timeouts.rest_s:g} s")
        return against

    def stop(self, reason: str) -> None:
        """In every state; latched."""
        self.state, self.reason, self._halt = State.STOPPED, reason, True

    def reset(self, now_s: float) -> None:
        """Out of STOPPED: hold where the robot is, or be idle where it was not started. Raises StartRefusedError,
        naming every condition of a start that does not hold; it stays stopped then."""
        if self.state == State.STOPPED:
            self._begin(now_s, resetting=True)
            self.state, self.reason = (State.HOLDING, "reset") if self._started else (State.IDLE, "not started")

    def hand_over(self) -> None:
        """Come to a standstill, then send nothing, until `take_back`. Raises StartRefusedError unless it is holding or
        tracking."""
        if self.state not in (State.HOLDING, State.TRACKING):
            raise StartRefusedError(f"there is nothing to hand over: it is {self.state.value} ({self.reason})")
        self._yielding = True

    def take_back(self, now_s: float) -> None:
        """Raises StartRefusedError as `start` does, and where nothing was handed over."""
        if self.state != State.YIELDED:
            raise StartRefusedError(f"nothing was handed over: it is {self.state.value}")
        self.start(now_s)

    def cease(self) -> None:
        """Come to a standstill and follow no action any more, until it is started anew."""
        self._ceasing = True

    def idle(self) -> None:
        """Send nothing; a stop stays."""
        self._started = False
        if self.state != State.STOPPED:
            self.state, self.reason = State.IDLE, "not started"

    @property
    def at_rest(self) -> bool:
        """Whether ceasing to send leaves no motion unfinished."""
        return self.state not in (State.HOLDING, State.TRACKING) or self._stream.at_rest

    def tick(self, now_s: float) -> Command:
        """Once every command period. After a pause without it, motion begins anew from where the last command was."""
        posture = None
        if now_s - self._ticked_s > PAUSE * self._stream.period_s and self._stream.posture is not None:
            self._stream.stand()
            if self._age_s(now_s) > self._timeouts.state_s:  # what waits to be heard may be fresh
                self._old_s = now_s
        self._ticked_s = now_s
        if self.state in (State.HOLDING, State.TRACKING):
            self._judge(now_s)
        if self.state in (State.HOLDING, State.TRACKING):
            try:
                posture = self._stream.command(now_s, self._seen[-1][1])
            except TrackingError as error:
                self.stop(str(error))
        halt, self._halt = self._halt, False
        if self.state == State.TRACKING and self._closures is not None:
            at = np.clip((now_s - self._acted_s) * self._rate_hz, 0, len(self._closures) - 1)
            self._closed = self._closures[int(at)]
        return Command(self.state, self.reason, posture, self._closed.copy(), halt)

    def _judge(self, now_s: float) -> None:
        """Whether to track, to hold or to stop, and why."""
        timeouts, age_s = self._timeouts, self._age_s(now_s)
        if age_s <= timeouts.state_s:
            self._old_s = np.inf
        elif np.isinf(self._old_s):
            self._old_s = now_s - (age_s - timeouts.state_s)
        if self.health.faults:
            self.stop("; ".join(self.health.faults))
        elif now_s - self._old_s > timeouts.stop_s:
            self.stop(f"joint states are {age_s:.3f} s old")
        elif self._frozen:
            self.stop("joint states have not changed while commands went on")
        elif self._late_s and self._late_s[-1] - self._late_s[0] > timeouts.stop_s:
            self.stop(self._dropped)
        else:
            silent_s = now_s - self._acted_s
            why = ""
            if age_s > timeouts.state_s:
                why = f"joint states are more than {timeouts.state_s:g} s old"
            elif silent_s > timeouts.action_s:
                why = self._dropped or ("no action has come" if np.isinf(silent_s) else "actions have ceased")
            why = "ceasing" if self._ceasing else "handing over" if self._yielding else why
            if why:
                self._stream.hold()
            self.state, self.reason = (State.HOLDING, why) if why else (State.TRACKING, "")
            if self._yielding and self._stream.at_rest:
                self.state, self.reason = State.YIELDED, "handed over"

    def _begin(self, now_s: float, *, resetting: bool = False) -> None:
        """Forget what was and stand where the robot is."""
        against = self.against_start(now_s, resetting=resetting)
        if not against:
            try:
                self._stream.start(self._seen[-1][1])
            except ValueError as error:
                against = [str(error)]
        if against:
            raise StartRefusedError("; ".join(against))
        self._forget_actions()
        self._old_s, self._ticked_s = np.inf, now_s
        self._closed[:] = np.nan

    def _age_s(self, now_s: float) -> float:
        return now_s - self._seen[-1][0] if self._seen else np.inf

    def _forget_actions(self) -> None:
        self._episode, self._step, self._acted_s = "", -1, -np.inf
        self._late_s: list[float] = []  # when the first and the last of late actions came
        self._dropped, self._halt, self._yielding, self._ceasing = "", False, False, False
        self._closures: np.ndarray | None = None
        self._moved_at: np.ndarray | None = None  # the command when a measured position last changed
        self._frozen, self._same = False, 0
