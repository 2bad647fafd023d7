"""From the base action and what was recalled to the action that goes out: equation (7), within every limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from efn_ros.correction.limits import ActionLimits
from efn_ros.robots.motion import HISTORY, RefusedActionError
from efn_ros.types import Correction, Mode, PastDecision, PolicyStep, Proposal, Recall

MAX_PAST = 32  # decisions of the episode that a residual is given


class Residual(Protocol):
    """What proposes a residual: recalled actions, or a learned network."""

    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[PastDecision] = ()) -> Proposal:
        """Propose a residual for a step; past: the decisions right before it, oldest first, none missing."""
        ...


class Explore(Protocol):
    """What explores around the action that would be executed: `exploration.Exploration`."""

    mode: str

    def __call__(self, step: PolicyStep, recall: Recall, residual: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Return the residual (H, A) in place of `residual`, and the index of the recalled step behind it, or None."""
        ...


class Corrector:
    """Owns the command history of the episode, the latched stop, and the order of what can go wrong.

    A stop wins over everything; a base action that is refused holds; in shadow the base goes out, and what memory
    proposes is only reported; else exploration, where there is any; no useful memory means base; else corrected. Every
    chunk that goes out obeys every limit from the commands before it on, and leaves room to brake after each row.
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
        """Correct within limits.

        Args:
            limits: Of every chunk that goes out.
            residual: What memory proposes.
            control_steps: From one decision to the next, the rows of a chunk that are executed in between.
            measured: For each entry of an action the entry of proprioception that measures it, -1 for none. Where it is
                given, an episode begins as if the measured posture had been commanded.
            shadow: Execute the base, as if correction were off.
            explore: Exploration; None: none.

        Raises:
            ValueError: `measured` is of another length than an action.
        """
        if len(measured) not in (0, len(limits.low)):
            raise ValueError(f"measured has {len(measured)} entries, but an action has {len(limits.low)}")
        self.limits = limits
        self._residual, self._explore = residual, explore
        self._control_steps, self._shadow, self._measured = control_steps, shadow, np.asarray(measured, int)
        self._stop_reason = ""
        self._episode_id = ""
        self._last: tuple[int, np.ndarray] | None = None  # step and chunk of the last correction
        self._past: deque[PastDecision] = deque(maxlen=MAX_PAST)
        self._history = np.empty((0, len(limits.low)), np.float32)

    @property
    def stop_reason(self) -> str:
        """Why nothing moves; empty where it may."""
        return self._stop_reason

    def use(self, residual: Residual, explore: Explore | None) -> None:
        """Propose with these from the next step on; to be called between episodes."""
        self._residual, self._explore = residual, explore

    def stop(self, reason: str) -> None:
        """Latch a stop: every action is a hold of mode STOPPED until `reset`."""
        self._stop_reason = self._stop_reason or reason

    def reset(self) -> None:
        """Release the stop."""
        self._stop_reason = ""

    def correct(self, step: PolicyStep, recall: Recall) -> Correction:
        """Correct one decision. A recall without a selected experience gives the base action, and its reason.

        Source: equation (7).
        """
        return self._decide(step, recall)

    def base_only(self, step: PolicyStep, reason: str) -> Correction:
        """Return the base action within the limits, for a decision whose correction failed; memory is not asked."""
        return self._decide(step, Recall(reason=reason), failed=reason)

    def _decide(self, step: PolicyStep, recall: Recall, failed: str = "") -> Correction:
        context = step.context
        history = self._commanded_before(step)
        zero = np.zeros_like(step.base)
        mode, reason, residual, proposed, clipped, exploration, trust = Mode.CORRECTED, "", zero, None, False, "", 1.0
        behind = recall.selected
        try:
            base = self.limits.accept(step.base, history)
        except RefusedActionError as error:
            mode, reason, base = Mode.HOLD, str(error), np.nan_to_num(step.base)
        if self._stop_reason:
            mode, reason = Mode.STOPPED, self._stop_reason
        if mode == Mode.CORRECTED:
            asked, reason = zero, failed or "correction is off"
            if context.correct and not failed:
                asked, reason, trust = self._residual(step, recall, tuple(self._past))
            if not np.isfinite(asked).all():
                reason = "the residual is not finite"
            wanted = base
            if not reason:
                wanted = self.limits.add(base, asked, history)
                proposed, clipped = (wanted - base).astype(np.float32), not np.array_equal(wanted, base + asked)
            added = zero if proposed is None else proposed
            if self._shadow and context.correct:
                mode, wanted = Mode.SHADOW, base
            elif self._explore and not failed and (explored := self._explore(step, recall, added)):
                reason, exploration, (asked, behind) = "", self._explore.mode, explored
                wanted = self.limits.add(base, asked, history)
            elif reason:
                mode = Mode.BASE
            corrected, residual = self.limits.within(wanted, history), (wanted - base).astype(np.float32)
        else:
            wanted = corrected = self.limits.hold(history, max(len(step.base), 1))
        self._last, self._history = (context.step, corrected), history
        self._past.append(PastDecision(step.proprio, corrected))
        experience = recall.steps[behind] if behind >= 0 else None
        return Correction(
            context=context,
            base=base,
            residual=residual,
            corrected=corrected,
            confidence=recall.confidence,
            success_probability=recall.success_probability,
            mode=mode,
            reason=reason,
            rollout_id=experience.rollout_id if experience else "",
            rollout_step=experience.step if experience else -1,
            limited=not np.array_equal(corrected, wanted),
            proposed=proposed,
            clipped=clipped,
            exploration=exploration,
            trust=trust,
        )

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
            return np.empty((0, len(self.limits.low)), np.float32)
        if self._measured.max() >= len(proprio):
            raise ValueError(f"limits.measured names entry {self._measured.max()} of {len(proprio)} of proprioception")
        return np.where(self._measured >= 0, proprio[self._measured], 0.0).astype(np.float32)[None]
