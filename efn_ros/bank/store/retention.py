"""What goes when a bank has a budget. Without one nothing ever does.

A strategy says in which order rollouts would go; as many go, from the front, as the budget asks for. Each is a function
of what the bank holds alone, so that a restart, or another budget, changes nothing that had been decided.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from efn_ros.bank.format.errors import BankCorruptionError
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.features.keys import unit
from efn_ros.types import Outcome

KEEP_ALL = "keep_all"
MEGABYTE = 10**6
ALIKE = 0.97  # cosine of mean keys from which rollouts are of one cluster

Strategy = Callable[[Sequence[StoredRollout]], list[int]]


@dataclass(frozen=True)
class Retention:
    """A budget and who goes when it is exceeded. rollouts, steps (decisions), bytes (of payloads): 0 is no limit.

    Raises ValueError, naming the parameter, for a negative limit, an unknown strategy, and a budget that keep_all could
    never keep.
    """

    strategy: str = KEEP_ALL
    rollouts: int = 0
    steps: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in (KEEP_ALL, *STRATEGIES):
            known = ", ".join(map(repr, (KEEP_ALL, *STRATEGIES)))
            raise ValueError(f"retention.strategy is {self.strategy!r}; there are {known}")
        for name in ("rollouts", "steps", "bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"retention.{name} is {getattr(self, name)}; it must be at least 0, which is no limit")
        if self.limited and self.strategy == KEEP_ALL:
            raise ValueError(f"retention.strategy is {KEEP_ALL!r}, but there is a budget; name {', '.join(STRATEGIES)}")

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return bool(self.rollouts or self.steps or self.bytes)

    def excess(self, rollouts: Sequence[StoredRollout]) -> list[StoredRollout]:
        """Those that go, the first first; none while the budget holds. The last one left always stays."""
        if not self.limited:
            return []
        sizes = np.array([(1, r.record.decisions, r.record.payload_size) for r in rollouts]).reshape(-1, 3)
        limits = np.array([limit or np.inf for limit in (self.rollouts, self.steps, self.bytes)])
        held = sizes.sum(axis=0)
        if (held <= limits).all():
            return []
        gone = []
        for index in STRATEGIES[self.strategy](rollouts)[:-1]:
            gone.append(rollouts[index])
            held = held - sizes[index]
            if (held <= limits).all():
                break
        return gone


def recency(rollouts: Sequence[StoredRollout]) -> list[int]:
    """The oldest first."""
    return list(range(len(rollouts)))


def reservoir(rollouts: Sequence[StoredRollout]) -> list[int]:
    """At random, so that every rollout that ever was has had the same chance to stay: each has drawn a lot once and for
    all, by its identifier, and the lowest goes first."""
    return sorted(range(len(rollouts)), key=lambda i: _lot(rollouts[i]))


def success_shorter(rollouts: Sequence[StoredRollout]) -> list[int]:
    """Of the task that has most, failures before successes, and of those the longest first; the older of equals."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for i, rollout in enumerate(rollouts):
        by_task[rollout.record.task].append(i)

    def worth(i: int) -> tuple:
        record = rollouts[i].record
        return record.outcome == Outcome.SUCCESS, -record.length, i

    return _from_the_largest([sorted(members, key=worth) for members in by_task.values()])


def diverse(rollouts: Sequence[StoredRollout]) -> list[int]:
    """Of the cluster that has most, the lowest lot (appendix A.2): what is rare stays, and of what is common a sample.

    Clusters are formed in the order in which rollouts came, from the mean of their keys: the nearest cluster, if its
    cosine is at least ALIKE and task and outcome are the same, else one of its own. What is corrupt goes first. Raises
    OSError: that a disk does not answer says nothing against a rollout.
    """
    clusters: dict[tuple, list[tuple[np.ndarray, list[int]]]] = defaultdict(list)
    unreadable = []
    for i, rollout in enumerate(rollouts):
        try:
            ((steps, _),) = rollout.cache.load([rollout])
        except BankCorruptionError:
            unreadable.append(i)
            continue
        key = unit((steps.key * steps.key_norm[:, None]).mean(axis=0))
        kind = clusters[rollout.record.task, rollout.record.outcome]
        similarity = [float(unit(total) @ key) for total, _ in kind]
        if kind and max(similarity) >= ALIKE:
            total, members = kind[int(np.argmax(similarity))]
            total += key
            members.append(i)
        else:
            kind.append((key.copy(), [i]))
    groups = [sorted(members, key=lambda i: _lot(rollouts[i])) for kind in clusters.values() for _, members in kind]
    return unreadable + _from_the_largest(groups)


STRATEGIES: dict[str, Strategy] = {f.__name__: f for f in (reservoir, recency, success_shorter, diverse)}
UNLIMITED = Retention()


def _from_the_largest(groups: Sequence[Sequence[int]]) -> list[int]:
    """The front of whichever group has most left, the one that was begun first of equals, until none is left."""
    queue = [(-len(group), min(group), list(group)) for group in groups]
    heapq.heapify(queue)
    order = []
    while queue:
        size, first, group = heapq.heappop(queue)
        order.append(group.pop(0))
        if group:
            heapq.heappush(queue, (size + 1, first, group))
    return order


def _lot(rollout: StoredRollout) -> bytes:
    return hashlib.blake2b(rollout.record.id.encode(), digest_size=8).digest()
