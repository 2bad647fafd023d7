# SPDX-License-Identifier: MIT
"""From the base action and the recalled experience to the action to execute, within every limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from efn_ros.correction.limits import ActionLimits
from efn_ros.robots.motion import HISTORY, RefusedActionError
from efn_ros.types import Correction, Mode, PastDecision, PolicyStep, Proposal, Recall

MAX_PAST = 32  # decisions of the episode that are passed to a residual


class Residual(Protocol):
    """Proposes residuals, for example from recalled actions or with a network."""

    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[PastDecision] = ()) -> Proposal:
        """Propose a residual for a step.

        Args:
            step: The policy step.
            recall: The experience recalled for it.
            past: The decisions right before the step, oldest first, without a gap.
        """
        ...


class Explore(Protocol):
    """Explores around a residual."""

    @property
    def mode(self) -> str:
        """Mode of exploration."""
        ...

    def __call__(self, step: PolicyStep, recall: Recall, residual: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Return a residual (H, A) instead of `residual`, and the index of its recalled step; None: no exploration."""
        ...


class Corrector:
    """Corrects the decisions of an episode; keeps its command history and a latched stop.

    From the highest priority on: a stop holds; a refused base action holds; in shadow the base action is executed, and
    the proposal of memory is only reported; exploration is executed; a proposal is executed; the base action is
    executed. Every chunk obeys every limit after the commands before it, and leaves room to brake after each row.
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
            limits: Of every chunk.
            residual: Proposes residuals.
            control_steps: From one decision to the next: rows of a chunk that are executed in between.
            measured: For each entry of an action the entry of proprioception that measures it, -1 for none. If it is
                given, an episode begins as if the measured posture had been commanded.
            shadow: Execute the base action and only report proposals.
            explore: Exploration; None: none.

        Raises:
            ValueError: `measured` has another length than an action.
        """
        if len(measured) not in (0, len(limits.low)):
            raise ValueError(f"measured has {len(measured)} entries, but an action has {len(limits.low)}")
        self.limits = limits
        self._residual, self._explore = residual, explore
        self._control_steps, self._shadow, self._measured = control_steps, shadow, np.asarray(measured, int)
        self._stop_reason = self._episode_id = ""
        self._last: tuple[int, np.ndarray] | None = None  # step and chunk of the last correction
        self._past: deque[PastDecision] = deque(maxlen=MAX_PAST)
        self._history = np.empty((0, len(limits.low)), np.float32)

    @property
    def stop_reason(self) -> str:
        """Reason of the stop; empty without a stop."""
        return self._stop_reason

    def use(self, residual: Residual, explore: Explore | None) -> None:
        """Replace residual and exploration, between two episodes."""
        self._residual, self._explore = residual, explore

    def stop(self, reason: str) -> None:
        """Latch a stop: every correction holds, with mode STOPPED, until `reset`."""
        self._stop_reason = self._stop_reason or reason

    def reset(self) -> None:
        """Release the stop."""
        self._stop_reason = ""

    def correct(self, step: PolicyStep, recall: Recall, *, base_only: str = "") -> Correction:
        """Correct one decision.

        Args:
            step: The policy step.
            recall: The experience recalled for it; without a selected step the base action is executed.
            base_only: Why the base action is executed without a proposal and without exploration; empty: it is not.
        """
        context = step.context
        history = self._commanded_before(step)
        zero = np.zeros_like(step.base)
        mode, reason, residual, proposed, clipped, exploration, trust = Mode.CORRECTED, "", zero, None, False, "", 1.0
        source = recall.selected
        try:
            base = self.limits.accept(step.base, history)
        except RefusedActionError as error:
            mode, reason, base = Mode.HOLD, str(error), np.nan_to_num(step.base)
        if self._stop_reason:
            mode, reason = Mode.STOPPED, self._stop_reason
        if mode == Mode.CORRECTED:
            requested, reason = zero, base_only or "correction is off"
            if context.correct and not base_only:
                requested, reason, trust = self._residual(step, recall, tuple(self._past))
            if not np.isfinite(requested).all():
                reason = "the residual is not finite"
            target = base
            if not reason:
                target = self.limits.add(base, requested, history)
                proposed, clipped = (target - base).astype(np.float32), not np.array_equal(target, base + requested)
            added = zero if proposed is None else proposed
            if self._shadow and context.correct:
                mode, target = Mode.SHADOW, base
            elif self._explore and not base_only and (explored := self._explore(step, recall, added)):
                reason, exploration, (requested, source) = "", self._explore.mode, explored
                target = self.limits.add(base, requested, history)
            elif reason:
                mode = Mode.BASE
            corrected, residual = self.limits.within(target, history), (target - base).astype(np.float32)
        else:
            target = corrected = self.limits.hold(history, max(len(step.base), 1))
        self._last, self._history = (context.step, corrected), history
        self._past.append(PastDecision(step.proprio, corrected))
        experience = recall.steps[source] if source >= 0 else None
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
            limited=not np.array_equal(corrected, target),
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
        """The measured posture as an action (1, A); (0, A) if actions are no positions."""
        if not len(self._measured):
            return np.empty((0, len(self.limits.low)), np.float32)
        if self._measured.max() >= len(proprio):
            raise ValueError(f"limits.measured names entry {self._measured.max()} of {len(proprio)} of proprioception")
        return np.where(self._measured >= 0, proprio[self._measured], 0.0).astype(np.float32)[None]
