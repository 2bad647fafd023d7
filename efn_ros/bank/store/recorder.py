# SPDX-License-Identifier: MIT
"""Assembly of a rollout from the messages of an episode, in whatever order they arrive."""

from __future__ import annotations

from collections import deque
from dataclasses import fields

from efn_ros.types import Correction, Observation, Outcome, PolicyStep, Rollout, RolloutStep

Part = Observation | PolicyStep | Correction
PARTS = (Observation, PolicyStep, Correction)  # of a complete decision
MAX_EARLY = 192  # parts that are held before an episode begins: they may arrive before its first state does


class RolloutRecorder:
    """Joins observations, policy steps and corrections by (episode_id, step, stamp_ns).

    Attributes, counted since the last `begin`:
        duplicates: Parts that had arrived before.
        foreign: Parts of other episodes.
        unrecorded: Parts whose context asks not to record.
        incomplete: Decisions that lacked a part at `finish`.
    """

    def __init__(self) -> None:
        self._early: deque[Part] = deque(maxlen=MAX_EARLY)
        self._episode: dict | None = None
        self._reset()

    def _reset(self) -> None:
        self._parts: dict[tuple[int, int], dict[type, Part]] = {}
        self.duplicates = self.foreign = self.unrecorded = self.incomplete = 0

    def begin(self, episode_id: str, *, robot: str, task: str, instruction: str, seed: int, start_ns: int) -> None:
        """Start collecting an episode; parts of an earlier one are dropped."""
        self._reset()
        self._episode = dict(
            episode_id=episode_id,
            robot=robot,
            task=task,
            instruction=instruction,
            seed=seed,
            start_ns=start_ns,
        )
        early, self._early = self._early, deque(maxlen=MAX_EARLY)
        for item in early:
            self.add(item)

    @property
    def complete(self) -> int:
        """Number of decisions of which all parts have arrived."""
        return sum(len(parts) == len(PARTS) for parts in self._parts.values())

    @property
    def first(self) -> int | None:
        """Earliest decision of which any part has arrived, before `finish`."""
        return min((step for step, _ in self._parts), default=None)

    def add(self, item: Part) -> None:
        """Add one part of one decision; parts and decisions may arrive in any order.

        What a subclass adds, such as visual tokens, is large and no part of a rollout: it is dropped.
        """
        context = item.context
        kind = next(kind for kind in PARTS if isinstance(item, kind))
        if type(item) is not kind:
            item = kind(**{field.name: getattr(item, field.name) for field in fields(kind)})
        if self._episode is None:
            self._early.append(item)
        elif context.episode_id != self._episode["episode_id"]:
            self.foreign += 1
        elif not context.record:
            self.unrecorded += 1
        else:
            parts = self._parts.setdefault((context.step, context.stamp_ns), {})
            if kind in parts:
                self.duplicates += 1
            else:
                parts[kind] = item

    def finish(self, outcome: Outcome, length: int) -> Rollout | None:
        """End the episode and return its complete decisions in temporal order; None without any.

        Of two complete decisions with the same index the earlier stamp counts, and the other is a duplicate.

        Args:
            outcome: Of the episode.
            length: Control steps.

        Raises:
            RuntimeError: No episode has begun.
        """
        if self._episode is None:
            raise RuntimeError("no episode has begun; call begin before finish")
        steps: dict[int, RolloutStep] = {}
        for (step, _), parts in sorted(self._parts.items(), key=lambda item: item[0]):
            match [parts.get(kind) for kind in PARTS]:
                case [Observation() as observation, PolicyStep() as policy_step, Correction() as correction]:
                    if step in steps:
                        self.duplicates += 1
                    else:
                        steps[step] = RolloutStep(observation, policy_step, correction)
                case _:
                    self.incomplete += 1
        episode, self._episode, self._parts = self._episode, None, {}
        if not steps:
            return None
        policy = next(iter(steps.values())).policy_step.policy
        return Rollout(**episode, policy=policy, outcome=outcome, length=length, steps=tuple(steps.values()))
