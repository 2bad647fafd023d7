"""From the base action and what was recalled to the action that goes out: equation (7), within every limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from efn_ros.correction.limits import ActionLimits, RefusedActionError
from efn_ros.robots.motion import HISTORY
from efn_ros.types import Correction, Mode, Past, PolicyStep, Proposal, Recall

REMEMBERED = 32  # decisions of the episode that a method of correction is told of


class Residual(Protocol):
    """What proposes a residual: the non-parametric form, or a learned network."""

    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[Past] = ()) -> Proposal:
        """past: the decisions right before this one, the oldest first; none is missing between them and this one."""


class Explore(Protocol):
    """What probes around what would be executed: `exploration.Exploration`."""

    mode: str

    def __call__(self, step: PolicyStep, recall: Recall, residual: np.ndarray) -> tuple[np.ndarray, int] | None:
        """The residual (H, A) instead of `residual`, and the index of the recalled step behind it; None: no probe."""


class Corrector:
    """Owns the command history of the episode, the latched stop, and the order of what can go wrong.

    A stop wins over everything; a base action that is refused holds; in shadow the base goes out, and what memory
    proposes is only told; else a probe, where there is one; no useful memory means base; else corrected. Every chunk
    that goes out obeys every limit from the commands before it on, and leaves room to brake after each row.
    """

    def __init__(
        self,
        limits: ActionLimits,
        residual: Residual,
        *,
        control_steps: int,
        measured: Sequence[int] = (),
        shadow: bool = False,
        explore: Explore | None = None,
    ) -> None:
        """control_steps: from one decision to the next, the rows of a chunk that are executed in between. measured: for
        each entry of an action the entry of proprioception that measures it, -1 for none; where it is given, an episode
        begins as if the measured posture had been commanded. shadow: execute the base, as if correction were off.
        Raises ValueError for another length than an action's.
        """
        if len(measured) not in (0, len(limits.low)):
            raise ValueError(f"measured has {len(measured)} entries, but an action has {len(limits.low)}")
        self._limits, self._residual, self._control_steps = limits, residual, control_steps
        self._shadow, self._explore = shadow, explore
        self._measured = np.asarray(measured, int)
        self._stopped = ""
        self._episode_id = ""
        self._last: tuple[int, np.ndarray] | None = None  # step and chunk of the last correction
        self._past: deque[Past] = deque(maxlen=REMEMBERED)
        self._history = np.empty((0, len(limits.low)), np.float32)

    @property
    def stopped(self) -> str:
        """Why nothing moves, empty where it may."""
        return self._stopped

    @property
    def limits(self) -> ActionLimits:
        return self._limits

    def take(self, residual: Residual, explore: Explore | None) -> None:
        """Propose with these from the next step on; to be called between episodes."""
        self._residual, self._explore = residual, explore

    def stop(self, reason: str) -> None:
        """Latch: every action is a hold of mode STOPPED until `reset`."""
        self._stopped = self._stopped or reason

    def reset(self) -> None:
        self._stopped = ""

    def correct(self, step: PolicyStep, recall: Recall) -> Correction:
        """The correction of one decision. `recall` without a drawn experience gives the base action, and its reason."""
        return self._decide(step, recall)

    def base_only(self, step: PolicyStep, reason: str) -> Correction:
        """The base action within the limits, for a decision whose correction failed; memory is not asked."""
        return self._decide(step, Recall(reason=reason), failed=reason)

    def _decide(self, step: PolicyStep, recall: Recall, failed: str = "") -> Correction:
        context = step.context
        history = self._commanded_before(step)
        nothing = np.zeros_like(step.base)
        mode, reason, residual, proposed, cut, exploration, trust = Mode.CORRECTED, "", nothing, None, False, "", 1.0
        behind = recall.drawn
        try:
            base = self._limits.accept(step.base, history)
        except RefusedActionError as error:
            mode, reason, base = Mode.HOLD, str(error), np.nan_to_num(step.base)
        if self._stopped:
            mode, reason = Mode.STOPPED, self._stopped
        if mode == Mode.CORRECTED:
            asked, reason = nothing, failed or "correction is off"
            if context.correct and not failed:
                asked, reason, trust = self._residual(step, recall, tuple(self._past))
            if not np.isfinite(asked).all():
                reason = "the residual is not finite"
            wanted = base
            if not reason:
                wanted = self._limits.add(base, asked, history)
                proposed, cut = (wanted - base).astype(np.float32), not np.array_equal(wanted, base + asked)
            if self._shadow and context.correct:
                mode, wanted = Mode.SHADOW, base
            elif not failed and (probe := self._probe(step, recall, nothing if reason else proposed)):
                reason, exploration, (asked, behind) = "", self._explore.mode, probe
                wanted = self._limits.add(base, asked, history)
            elif reason:
                mode = Mode.BASE
            corrected, residual = self._limits.within(wanted, history), (wanted - base).astype(np.float32)
        else:
            wanted = corrected = self._limits.hold(history, max(len(step.base), 1))
        self._last, self._history = (context.step, corrected), history
        self._past.append(Past(step.proprio, corrected))
        drawn = recall.steps[behind] if behind >= 0 else None
        return Correction(
            context=context,
            base=base,
            residual=residual,
            corrected=corrected,
            confidence=recall.confidence,
            chance=recall.chance,
            mode=mode,
            reason=reason,
            rollout_id=drawn.rollout_id if drawn else "",
            rollout_step=drawn.step if drawn else -1,
            limited=not np.array_equal(corrected, wanted),
            proposed=proposed,
            cut=cut,
            exploration=exploration,
            trust=trust,
        )

    def _probe(self, step: PolicyStep, recall: Recall, residual: np.ndarray) -> tuple[np.ndarray, int] | None:
        return self._explore(step, recall, residual) if self._explore else None

    def _commanded_before(self, step: PolicyStep) -> np.ndarray:
        """The latest actions (n <= HISTORY, A) executed before this decision, by count of steps and not by a clock."""
        context = step.context
        if context.episode_id != self._episode_id:
            self._episode_id, self._last, self._history = context.episode_id, None, self._posture(step.proprio)
            self._past.clear()
        if self._last is None:
            return self._history
        if context.step != self._last[0] + 1:
            self._past.clear()
        executed = self._last[1][: max(context.step - self._last[0], 1) * self._control_steps]
        return np.concatenate([self._history, executed])[-HISTORY:]

    def _posture(self, proprio: np.ndarray) -> np.ndarray:
        """The measured posture as an action (1, A); (0, A) where actions are no positions."""
        if not len(self._measured):
            return np.empty((0, len(self._limits.low)), np.float32)
        if self._measured.max() >= len(proprio):
            raise ValueError(f"limits.measured names entry {self._measured.max()} of {len(proprio)} of proprioception")
        return np.where(self._measured >= 0, proprio[self._measured], 0.0).astype(np.float32)[None]
