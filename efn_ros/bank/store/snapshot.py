# SPDX-License-Identifier: MIT
"""Contents of a bank at one revision, and the columns by which rollouts are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.features.keys import unit
from efn_ros.types import Outcome

COLUMNS = ("instruction", "policy", "recallable", "success")  # fields of `Contents` with one entry for each rollout


@dataclass(frozen=True)
class Contents:
    """Columns of R rollouts, oldest first.

    `rows` and `policies` only grow, so all contents that were derived from one another share them.
    """

    instruction: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # int32 (R,), row of `embeddings`
    policy: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # int32 (R,), index in `policies`
    recallable: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool (R,), whether any step is
    success: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool (R,)
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (I, E), distinct, unit norm
    rows: dict[int, int] = field(default_factory=dict)  # instruction in the catalogue to its row of `embeddings`
    policies: dict[str, int] = field(default_factory=dict)  # fingerprint to index

    def __len__(self) -> int:
        return len(self.instruction)

    def extended(self, rollouts: Sequence[StoredRollout]) -> Contents:
        """Return the contents with more rollouts at the end."""
        if not rollouts:
            return self
        records, embeddings = [r.record for r in rollouts], []
        for rollout in rollouts:
            if rollout.instruction_id not in self.rows:
                self.rows[rollout.instruction_id] = len(self.rows)
                embeddings.append(rollout.instruction_embedding)
        added = {
            "instruction": np.array([self.rows[r.instruction_id] for r in rollouts], np.int32),
            "policy": np.array([self.policies.setdefault(r.policy, len(self.policies)) for r in records], np.int32),
            "recallable": np.array([r.recallable > 0 for r in records]),
            "success": np.array([r.outcome == Outcome.SUCCESS for r in records]),
        }
        columns = {name: np.concatenate([getattr(self, name), column]) for name, column in added.items()}
        if embeddings:
            known = [self.embeddings] if len(self.embeddings) else []
            columns["embeddings"] = np.concatenate([*known, unit(np.stack(embeddings))])
        return replace(self, **columns)

    def select(self, mask: np.ndarray) -> Contents:
        """Return the contents of the rollouts of a mask, bool (R,)."""
        return replace(self, **{name: getattr(self, name)[mask] for name in COLUMNS})


@dataclass(frozen=True)
class Snapshot:
    """All rollouts at one revision, oldest first."""

    revision: int = 0  # of the bank
    projection: str = ""  # identity of the bank's projection; empty before there is a bank
    rollouts: tuple[StoredRollout, ...] = ()  # oldest first
    contents: Contents = field(default_factory=Contents)  # of the rollouts, column by column
    skipped: tuple[str, ...] = ()  # identifiers of corrupt rollouts, if the reader skips such

    @classmethod
    def of(cls, rollouts: Sequence[StoredRollout], revision: int, projection: str) -> Snapshot:
        """Make a snapshot of rollouts of one bank."""
        return cls(revision, projection, tuple(rollouts), Contents().extended(rollouts))

    def extended(self, rollouts: Sequence[StoredRollout], revision: int) -> Snapshot:
        """Return the snapshot with more rollouts at the end."""
        contents = self.contents.extended(rollouts)
        return replace(self, revision=revision, rollouts=(*self.rollouts, *rollouts), contents=contents)

    def select(self, mask: np.ndarray) -> Snapshot:
        """Return the snapshot of the rollouts of a mask, bool (R,)."""
        rollouts = tuple(itertools.compress(self.rollouts, mask.tolist()))
        return replace(self, rollouts=rollouts, contents=self.contents.select(mask))


class SnapshotSource(Protocol):
    """Source of a retriever: a bank, or a part of one."""

    def snapshot(self) -> Snapshot:
        """Return the rollouts at the present revision."""
        ...


@dataclass(frozen=True)
class FixedSnapshot:
    """A source whose rollouts never change."""

    fixed: Snapshot  # what `snapshot` returns

    def snapshot(self) -> Snapshot:
        """Return the fixed snapshot."""
        return self.fixed


class FirstRollouts:
    """A source as it was when it held `volume` rollouts."""

    def __init__(self, reader: SnapshotSource, volume: int) -> None:
        self._reader, self._volume = reader, volume

    def snapshot(self) -> Snapshot:
        """Return the oldest `volume` rollouts; the revision is `volume`."""
        whole = self._reader.snapshot()
        return replace(whole.select(np.arange(len(whole.rollouts)) < self._volume), revision=self._volume)
