"""From what the loop says, in whatever order it arrives, to the rollout of an episode."""

from __future__ import annotations

from collections import deque

from efn_ros.types import Correction, Observation, Outcome, PolicyStep, Rollout, RolloutStep

PARTS = 3  # of a decision: observation, policy step, correction
EARLY = 192  # items kept for an episode that has not begun yet: its messages may overtake the news of its beginning


class RolloutRecorder:
    """Joins observations, policy steps and corrections by (episode_id, step, stamp_ns).

    Counted since the last `begin`: duplicates, items that had come before; foreign, items of other episodes;
    unrecorded, items whose context says not to record; incomplete, decisions that lacked a part at `finish`. Before
    `finish`, `first` is the earliest decision of which any part came.
    """

    def __init__(self) -> None:
        self._early: deque[Observation | PolicyStep | Correction] = deque(maxlen=EARLY)
        self._episode: dict | None = None
        self._reset()

    def _reset(self) -> None:
        self._parts: dict[tuple[int, int], dict[type, Observation | PolicyStep | Correction]] = {}
        self.duplicates = self.foreign = self.unrecorded = self.incomplete = 0

    def begin(self, episode_id: str, *, robot: str, task: str, instruction: str, seed: int, start_ns: int) -> None:
        """Start collecting an episode; what another one has left is dropped."""
        self._reset()
        self._episode = dict(
            episode_id=episode_id,
            robot=robot,
            task=task,
            instruction=instruction,
            seed=seed,
            start_ns=start_ns,
        )
        early, self._early = self._early, deque(maxlen=EARLY)
        for item in early:
            self.add(item)

    @property
    def complete(self) -> int:
        """Decisions of which all parts are there."""
        return sum(len(parts) == PARTS for parts in self._parts.values())

    @property
    def first(self) -> int | None:
        return min((step for step, _ in self._parts), default=None)

    def add(self, item: Observation | PolicyStep | Correction) -> None:
        """Take one part of one decision; parts of a decision and decisions may come in any order."""
        context = item.context
        if self._episode is None:
            self._early.append(item)
        elif context.episode_id != self._episode["episode_id"]:
            self.foreign += 1
        elif not context.record:
            self.unrecorded += 1
        else:
            parts = self._parts.setdefault((context.step, context.stamp_ns), {})
            if type(item) in parts:
                self.duplicates += 1
            else:
                parts[type(item)] = item

    def finish(self, outcome: Outcome, length: int) -> Rollout | None:
        """End the episode, after `length` control steps. Returns its complete decisions, in order; None without any.

        Of two complete decisions with the same index the earlier stamp counts and the other is a duplicate. Raises
        RuntimeError when no episode has begun.
        """
        if self._episode is None:
            raise RuntimeError("no episode has begun; call begin before finish")
        steps: dict[int, RolloutStep] = {}
        for (step, _), parts in sorted(self._parts.items(), key=lambda item: item[0]):
            if len(parts) < PARTS:
                self.incomplete += 1
            elif step in steps:
                self.duplicates += 1
            else:
                steps[step] = RolloutStep(parts[Observation], parts[PolicyStep], parts[Correction])
        episode, self._episode, self._parts = self._episode, None, {}
        if not steps:
            return None
        policy = next(iter(steps.values())).policy_step.policy
        return Rollout(**episode, policy=policy, outcome=outcome, length=length, steps=tuple(steps.values()))
