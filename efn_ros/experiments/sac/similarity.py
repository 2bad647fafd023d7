# SPDX-License-Identifier: MIT
"""Similarity of the steps of an episode to those of another, for rewards: fused (38), of keys (8), or Sinkhorn (55)."""

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

    cues: Cues  # key, latent and proprioception of each step
    sketch: np.ndarray | None  # float32 (T, tokens, d), only where the similarity is Sinkhorn's


@dataclass(frozen=True)
class StepSimilarity:
    """Similarity in [0, 1] of each step of an episode to each step of another."""

    kind: str  # FUSED, KEY or SINKHORN
    proprio_std: np.ndarray  # sigma of (35), (P,)

    def of(self, steps: Sequence[PolicyStep]) -> EpisodeCues:
        """Return the cues of an episode's policy steps."""
        key, latent = np.stack([s.key.q for s in steps]), np.stack([s.latent for s in steps])
        return self._cues(key, latent, np.stack([s.proprio for s in steps]), [s.sketch for s in steps])

    def of_rollout(self, rollout: StoredRollout) -> EpisodeCues:
        """Return the cues of a stored rollout."""
        arrays = rollout.arrays
        sketches = rollout.sketches(*range(len(arrays.steps))) if self.kind == SINKHORN else []
        return self._cues(arrays.key.q, arrays.latent, arrays.proprio, sketches)

    def __call__(self, steps: Sequence[PolicyStep], other: EpisodeCues) -> np.ndarray:
        """Return the similarity of each policy step to each step of the other episode, float32 (len(steps), T)."""
        if other.sketch is not None:
            sketches = torch.from_numpy(other.sketch)
            own = (torch.from_numpy(step.sketch.dequantise()) for step in steps)
            return torch.stack([sinkhorn_similarity(tokens.expand_as(sketches), sketches) for tokens in own]).numpy()
        if self.kind == KEY:
            return np.stack([cosine_similarity(other.cues.key, other.cues.key_norm, step.key.q) for step in steps])
        fused = FusedSimilarity(other.cues, CueWeights(), self.proprio_std.tolist())
        return np.stack([fused(step.query) for step in steps])

    def _cues(
        self, key: np.ndarray, latent: np.ndarray, proprio: np.ndarray, sketches: Sequence[Quantised]
    ) -> EpisodeCues:
        latent_key = quantise(mean_latent(latent)).q
        cues = Cues(key, inverse_norm(key), latent_key, inverse_norm(latent_key), proprio)
        return EpisodeCues(cues, np.stack([s.dequantise() for s in sketches]) if self.kind == SINKHORN else None)
