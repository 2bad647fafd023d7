# SPDX-License-Identifier: MIT
"""Cache of the codes of recalled steps; each rollout is encoded once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.features.codes import SketchEncoder
from efn_ros.retrieval.candidates import Candidates


class CodeCache:
    """Codes of the rollouts that were compared last."""

    def __init__(self, encoder: SketchEncoder | None) -> None:
        self._encoder = encoder
        self._codes: dict[str, np.ndarray] = {}  # by payload, float32 (decisions, codes)

    @property
    def identity(self) -> str:
        """Identity of the encoder; empty without one."""
        return self._encoder.identity if self._encoder else ""

    def retain(self, rollouts: Iterable[StoredRollout]) -> None:
        """Drop the codes of all other rollouts."""
        payloads = {rollout.record.payload for rollout in rollouts}
        self._codes = {payload: codes for payload, codes in self._codes.items() if payload in payloads}

    def __call__(self, candidates: Candidates, chosen: np.ndarray) -> np.ndarray:
        """Return the codes of the candidates `chosen`, int (M,); float32 (M, codes), or (M, 0) without an encoder.

        Raises:
            BankCorruptionError: A sketch is not what was written.
            ValueError: The sketches have another size than the encoder reads.
        """
        if not self._encoder:
            return np.zeros((len(chosen), 0), np.float32)
        rows, codes = candidates.rows[chosen], []
        for row, rollout in zip(rows, candidates.rollout_of_row[rows].tolist(), strict=True):
            record = candidates.rollouts[rollout].record
            if record.payload not in self._codes:
                self._codes[record.payload] = self._encoder(candidates.sketches(rollout, range(record.decisions)))
            codes.append(self._codes[record.payload][row - candidates.first[rollout]])
        return np.stack(codes)
