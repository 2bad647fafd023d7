"""The columns that rollouts are chosen by, kept apart from the rollouts so that choosing takes no Python loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from efn_ros.bank.keys import unit
from efn_ros.types import Outcome

if TYPE_CHECKING:
    from efn_ros.bank.reader import StoredRollout


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
