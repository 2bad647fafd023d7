# SPDX-License-Identifier: MIT
"""Candidates: the stored steps that a query is compared with, as parallel arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.format.steps import Steps
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.retrieval.config import RetrievalConfig
from efn_ros.retrieval.ranking import efficiency_prior
from efn_ros.retrieval.similarity import Cues, FusedSimilarity
from efn_ros.types import Experiences, Quantised

COMPARED = ("key", "key_norm", "latent_key", "latent_norm", "proprio")
RETURNED = ("steps", "base", "executed", "proprio")


class Candidates:
    """All steps of the chosen rollouts in the order in which they were stored; the C recallable ones are compared.

    A step is identified by its row among all steps, a candidate by its index among the recallable ones.

    Attributes:
        rollouts: The chosen rollouts, oldest first.
        payloads: Their open files, which stay readable if a rollout is removed while the episode runs.
        rollout_of_row: Index into `rollouts` of each row.
        first: First row of each rollout.
        rows: Row of each candidate, int (C,).
        column: Arrays of all rows, by the names in RETURNED.
        cues: Of the candidates.
        similarity: The fused similarity (38) of every candidate to a query.
        prior: Efficiency prior g of (18), float32 (C,).
    """

    def __init__(self, loaded: Sequence[tuple[StoredRollout, Steps, PayloadFile]], config: RetrievalConfig) -> None:
        """Concatenate the steps of rollouts, at least one, oldest first.

        Raises:
            ValueError: The bank contains no cue that has weight.
        """
        self.rollouts, self.payloads = [rollout for rollout, _, _ in loaded], [payload for _, _, payload in loaded]
        self._records, steps = [rollout.record for rollout in self.rollouts], [steps for _, steps, _ in loaded]
        self._latents = [s.latent for s in steps]  # large, and only read for recalled steps
        column = {
            name: np.concatenate([getattr(s, name) for s in steps])
            for name in (*COMPARED, *RETURNED[:-1], "recallable")
        }
        counts = [len(s.steps) for s in steps]
        self.rollout_of_row, self.first = np.repeat(np.arange(len(loaded)), counts), np.cumsum([0, *counts])[:-1]
        follows = (np.diff(column["steps"]) == 1) & (np.diff(self.rollout_of_row) == 0)
        every = np.arange(len(self.rollout_of_row))
        self._after, self._before = every + np.append(follows, False), every - np.insert(follows, 0, False)
        self.rows = np.flatnonzero(column["recallable"])
        self.column = {name: column[name] for name in RETURNED}

        compared = slice(None) if len(self.rows) == len(every) else self.rows
        self.cues = Cues(*(column[name][compared] for name in COMPARED))
        self.similarity = FusedSimilarity(self.cues, config.weights, config.proprio_sigma)
        self._length = np.array([record.length for record in self._records], np.uint32)
        self.prior = efficiency_prior(self._length.astype(np.float32), config.beta)[self.rollout_of_row[self.rows]]
        self._outcome = np.array([record.outcome for record in self._records], np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def experiences(
        self,
        chosen: np.ndarray,
        *,
        similarity: np.ndarray,
        score: np.ndarray,
        probability: np.ndarray,
        code: np.ndarray,
    ) -> Experiences:
        """Return candidates as retrieval returns them.

        Args:
            chosen: Indices of the candidates, int (M,).
            similarity: Of all candidates, float32 (C,).
            score: Of the chosen ones, float32 (M,).
            probability: Of the chosen ones, float64 (M,).
            code: Codes of their sketches, float32 (M, codes).
        """
        row, column = self.rows[chosen], self.column
        before, after, rollout = self._before[row], self._after[row], self.rollout_of_row[row]
        records = [self._records[i] for i in rollout.tolist()]
        return Experiences(
            rollout_id=tuple([record.id for record in records]),
            step=column["steps"][row].astype(np.uint32),
            instruction=tuple([record.instruction for record in records]),
            outcome=self._outcome[rollout],
            rollout_length=self._length[rollout],
            executed=column["executed"][row],
            base=column["base"][row],
            proprio=column["proprio"][row],
            proprio_next=column["proprio"][after],
            executed_before=column["executed"][before] * (before < row)[:, None, None],
            proprio_before=column["proprio"][before],
            latent=self._mean_latents(rollout, row - self.first[rollout]),
            similarity=similarity[chosen].astype(np.float64),
            score=score.astype(np.float64),
            probability=probability,
            code=code,
        )

    def successor(self, candidate: int) -> int:
        """Return the candidate of the next decision; -1 if it was not stored or is blank."""
        row = self.rows[candidate]
        after = self._after[row]
        place = int(np.searchsorted(self.rows, after))
        return place if after != row and place < len(self.rows) and self.rows[place] == after else -1

    def locate(self, candidate: int) -> tuple[StoredRollout, int]:
        """Return the rollout of a candidate, and its row in that rollout."""
        row = self.rows[candidate]
        rollout = self.rollout_of_row[row]
        return self.rollouts[rollout], int(row - self.first[rollout])

    def find(self, rollout: StoredRollout, row: int) -> int:
        """Return the candidate at a recallable row of a rollout; -1 if the rollout was not chosen."""
        if rollout not in self.rollouts:
            return -1
        return int(np.searchsorted(self.rows, self.first[self.rollouts.index(rollout)] + row))

    def sketch_pair(self, candidate: int) -> list[Quantised]:
        """Return the sketches of a candidate and of the next decision.

        Raises:
            BankCorruptionError: They are not what was written.
        """
        row = self.rows[candidate]
        rollout = int(self.rollout_of_row[row])
        return self.sketches(rollout, [int(r - self.first[rollout]) for r in (row, self._after[row])])

    def sketches(self, rollout: int, rows: Sequence[int]) -> list[Quantised]:
        """Return the sketches of some decisions of a chosen rollout.

        Raises:
            BankCorruptionError: They are not what was written.
        """
        try:
            return self.payloads[rollout].sketches(rows)
        except ValueError as error:
            stored = self.rollouts[rollout]
            corrupt = stored.corruption_error(f"sketches {tuple(rows)} cannot be read ({error})")
            if stored.cache.skip_corrupt:
                stored.cache.mark_corrupt(stored, corrupt)
            raise corrupt from error

    def _mean_latents(self, rollout: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return float32 (M, dz), row by row: concatenating the latents of all steps would delay an episode's start."""
        latent = np.empty((len(row), self._latents[0].shape[1]), np.float32)
        for i, (of, at) in enumerate(zip(rollout.tolist(), row.tolist(), strict=True)):
            latent[i] = self._latents[of][at]
        return latent
