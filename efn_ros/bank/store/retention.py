# SPDX-License-Identifier: MIT
"""Retention: which rollouts are removed when a bank exceeds its budget; without a budget none are.

A strategy ranks rollouts for removal, and as many are removed from the front as the budget requires. A ranking depends
on the contents of the bank alone, so a restart or another budget does not change it.
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
CLUSTER_COSINE = 0.97  # cosine of mean keys from which on rollouts belong to one cluster

Strategy = Callable[[Sequence[StoredRollout]], list[int]]  # rollouts, oldest first, to their ranking by index


@dataclass(frozen=True)
class Retention:
    """A budget and the strategy that keeps it; a limit of 0 is none.

    Raises:
        ValueError: A limit is negative, the strategy is unknown, or there is a budget but the strategy is keep_all; the
            message names the parameter.
    """

    strategy: str = KEEP_ALL  # KEEP_ALL or one of STRATEGIES
    rollouts: int = 0  # most rollouts
    steps: int = 0  # most decisions
    bytes: int = 0  # most bytes of payloads

    def __post_init__(self) -> None:
        if self.strategy not in (KEEP_ALL, *STRATEGIES):
            known = ", ".join(map(repr, (KEEP_ALL, *STRATEGIES)))
            raise ValueError(f"retention.strategy is {self.strategy!r}; choose one of {known}")
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
        """Return the rollouts to remove, in that order; none within the budget. One rollout always remains."""
        sizes = np.array([(1, r.record.decisions, r.record.payload_size) for r in rollouts]).reshape(-1, 3)
        limits = np.array([limit or np.inf for limit in (self.rollouts, self.steps, self.bytes)])
        total = sizes.sum(axis=0)
        if (total <= limits).all():
            return []
        removed = []
        for index in STRATEGIES[self.strategy](rollouts)[:-1]:
            removed.append(rollouts[index])
            total = total - sizes[index]
            if (total <= limits).all():
                break
        return removed


def recency(rollouts: Sequence[StoredRollout]) -> list[int]:
    """Rank the oldest first."""
    return list(range(len(rollouts)))


def reservoir(rollouts: Sequence[StoredRollout]) -> list[int]:
    """Rank at random, so that every rollout that was ever appended is retained with the same probability."""
    return sorted(range(len(rollouts)), key=lambda i: _random_rank(rollouts[i]))


def success_shorter(rollouts: Sequence[StoredRollout]) -> list[int]:
    """Rank by task: of the task with most rollouts, failures first, then the longest, then the oldest."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for i, rollout in enumerate(rollouts):
        by_task[rollout.record.task].append(i)

    def value(i: int) -> tuple:
        record = rollouts[i].record
        return record.outcome == Outcome.SUCCESS, -record.length, i

    return _from_the_largest([sorted(members, key=value) for members in by_task.values()])


def diverse(rollouts: Sequence[StoredRollout]) -> list[int]:
    """Rank by cluster: of the largest cluster at random, so that rare rollouts remain (appendix A.2).

    A rollout joins the cluster of its task and outcome with the most similar mean key if the cosine is at least
    CLUSTER_COSINE, and begins a new one otherwise, oldest first. Corrupt rollouts come first.

    Raises:
        OSError: A payload cannot be read; that is no corruption.
    """
    clusters: dict[tuple, list[tuple[np.ndarray, list[int]]]] = defaultdict(list)
    corrupt = []
    for i, rollout in enumerate(rollouts):
        try:
            loaded = rollout.cache.load([rollout])[0]
        except BankCorruptionError:
            loaded = None
        if loaded is None:
            corrupt.append(i)
            continue
        key = unit((loaded[0].key * loaded[0].key_norm[:, None]).mean(axis=0))
        group = clusters[rollout.record.task, rollout.record.outcome]
        similarity = [float(unit(total) @ key) for total, _ in group]
        if group and max(similarity) >= CLUSTER_COSINE:
            total, members = group[int(np.argmax(similarity))]
            total += key
            members.append(i)
        else:
            group.append((key.copy(), [i]))
    ranked = [
        sorted(members, key=lambda i: _random_rank(rollouts[i])) for group in clusters.values() for _, members in group
    ]
    return corrupt + _from_the_largest(ranked)


STRATEGIES: dict[str, Strategy] = {f.__name__: f for f in (reservoir, recency, success_shorter, diverse)}
UNLIMITED = Retention()


def _from_the_largest(groups: Sequence[Sequence[int]]) -> list[int]:
    """Take the first of the largest group, of equally large ones the group that was begun first, until none is left."""
    queue = [(-len(group), min(group), list(group)) for group in groups]
    heapq.heapify(queue)
    ranking = []
    while queue:
        size, first, group = heapq.heappop(queue)
        ranking.append(group.pop(0))
        if group:
            heapq.heappush(queue, (size + 1, first, group))
    return ranking


def _random_rank(rollout: StoredRollout) -> bytes:
    """Return a random number that depends on the rollout's identifier alone, so that it never changes."""
    return hashlib.blake2b(rollout.record.id.encode(), digest_size=8).digest()
