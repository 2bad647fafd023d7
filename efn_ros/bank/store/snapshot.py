"""What a bank holds at one revision, and the columns that rollouts are chosen by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.features.keys import unit
from efn_ros.types import Outcome


@dataclass(frozen=True)
class Contents:
    """One entry for each of R rollouts, oldest first.

    instruction: int32 (R,), row of `embeddings`, float32 (I, E), the distinct ones at unit norm. policy: int32 (R,),
    index into `policies`. recallable, success: bool (R,). rows: of the catalogue's instructions in `embeddings`; it and
    `policies` only ever grow, so that what is derived from one another shares them.
    """

    instruction: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    policy: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    recallable: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    success: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    rows: dict[int, int] = field(default_factory=dict)
    policies: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.instruction)

    def extended(self, rollouts: Sequence[StoredRollout]) -> Contents:
        """With these after the others."""
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
        if embeddings:
            known = [self.embeddings] if len(self.embeddings) else []
            added["embeddings"] = np.concatenate([*known, unit(np.stack(embeddings))])
            return replace(self, embeddings=added.pop("embeddings"), **self._after(added))
        return replace(self, **self._after(added))

    def only(self, kept: np.ndarray) -> Contents:
        """Those that `kept`, bool (R,) or a slice, names."""
        return replace(self, **{name: getattr(self, name)[kept] for name in self._COLUMNS})

    def _after(self, added: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([getattr(self, name), column]) for name, column in added.items()}

    _COLUMNS = ("instruction", "policy", "recallable", "success")


@dataclass(frozen=True)
class Snapshot:
    """All rollouts at one revision, oldest first.

    projection: identity of the one the bank was made with, empty before there is a bank. contents: of the rollouts,
    column by column. skipped: identifiers of corrupt rollouts that were found and left out, if the reader skips them.
    """

    revision: int = 0
    projection: str = ""
    rollouts: tuple[StoredRollout, ...] = ()
    contents: Contents = field(default_factory=Contents)
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, rollouts: Sequence[StoredRollout], revision: int, projection: str) -> Snapshot:
        """Of rollouts of one bank."""
        return cls(revision, projection, tuple(rollouts), Contents().extended(rollouts))

    def extended(self, rollouts: Sequence[StoredRollout], revision: int) -> Snapshot:
        """With these after the others."""
        contents = self.contents.extended(rollouts)
        return replace(self, revision=revision, rollouts=(*self.rollouts, *rollouts), contents=contents)

    def only(self, kept: np.ndarray) -> Snapshot:
        """The rollouts that `kept`, bool (R,), names."""
        rollouts = tuple(itertools.compress(self.rollouts, kept.tolist()))
        return replace(self, rollouts=rollouts, contents=self.contents.only(kept))


class SnapshotSource(Protocol):
    """What a retriever reads from: a bank, or a part of one."""

    def snapshot(self) -> Snapshot:
        """The rollouts at the present revision."""
        ...


@dataclass(frozen=True)
class FixedSnapshot:
    """A source whose rollouts never change."""

    fixed: Snapshot

    def snapshot(self) -> Snapshot:
        """The rollouts it was made of."""
        return self.fixed


class FirstRollouts:
    """A source as it was when it held `volume` rollouts."""

    def __init__(self, reader: SnapshotSource, volume: int) -> None:
        self._reader, self._volume = reader, volume

    def snapshot(self) -> Snapshot:
        whole = self._reader.snapshot()
        return replace(whole.only(np.arange(len(whole.rollouts)) < self._volume), revision=self._volume)
