"""Similarity of the steps of two episodes, for rewards: fused (38), of visual keys (8), or by Sinkhorn (55)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from efn_ros.bank import StoredRollout
from efn_ros.experiments.sac.sinkhorn import sinkhorn_similarity
from efn_ros.features.keys import mean_latent
from efn_ros.features.sketches import inverse_norm, quantise
from efn_ros.retrieval.similarity import Cues, CueWeights, FusedSimilarity, cosine_similarity
from efn_ros.types import PolicyStep, Quantised

FUSED, KEY, SINKHORN = "fused", "key", "sinkhorn"


@dataclass(frozen=True)
class EpisodeCues:
    """What the T steps of an episode are compared by."""

    cues: Cues
    latent: np.ndarray  # float32 (T, L, dz)
    sketch: np.ndarray | None  # float32 (T, tokens, d), only where similarity is by Sinkhorn

    def __len__(self) -> int:
        return len(self.cues.key)


@dataclass(frozen=True)
class StepSimilarity:
    """Similarity in [0, 1] of every step of one episode to every step of another."""

    kind: str  # FUSED, KEY or SINKHORN
    proprio_std: np.ndarray  # sigma of (35), (P,)

    def of(self, steps: Sequence[PolicyStep]) -> EpisodeCues:
        """Return the cues of an episode's policy steps."""
        key = np.stack([s.key.q for s in steps])
        latent, proprio = np.stack([s.latent for s in steps]), np.stack([s.proprio for s in steps])
        return self._cues(key, latent, proprio, [s.sketch for s in steps])

    def of_rollout(self, rollout: StoredRollout) -> EpisodeCues:
        """Return the cues of a stored rollout."""
        arrays = rollout.arrays
        sketches = rollout.sketches(*range(len(arrays.steps))) if self.kind == SINKHORN else []
        return self._cues(arrays.key.q, arrays.latent, arrays.proprio, sketches)

    def __call__(self, a: EpisodeCues, b: EpisodeCues) -> np.ndarray:
        """Return float32 (len(a), len(b))."""
        if self.kind == SINKHORN and a.sketch is not None and b.sketch is not None:
            left, right = torch.from_numpy(a.sketch), torch.from_numpy(b.sketch)
            return torch.stack([sinkhorn_similarity(row.expand_as(right), right) for row in left]).numpy()
        if self.kind == KEY:
            return np.stack([cosine_similarity(b.cues.key, b.cues.key_norm, q) for q in a.cues.key])
        fused = FusedSimilarity(b.cues, CueWeights(), self.proprio_std.tolist())
        return np.stack([fused(_Step(*row)) for row in zip(a.cues.key, a.latent, a.cues.proprio, strict=True)])

    def _cues(
        self, key: np.ndarray, latent: np.ndarray, proprio: np.ndarray, sketches: Sequence[Quantised]
    ) -> EpisodeCues:
        latent_key = quantise(mean_latent(latent)).q
        cues = Cues(key, inverse_norm(key), latent_key, inverse_norm(latent_key), proprio)
        by_tokens = self.kind == SINKHORN
        return EpisodeCues(cues, latent, np.stack([s.dequantise() for s in sketches]) if by_tokens else None)


class _Step:
    """The part of a query that similarity reads."""

    def __init__(self, q: np.ndarray, latent: np.ndarray, proprio: np.ndarray) -> None:
        self.key, self.latent, self.proprio = Quantised(q, np.ones((), np.float32)), latent, proprio
