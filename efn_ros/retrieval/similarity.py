# SPDX-License-Identifier: MIT
"""Similarity of a query to bank steps: visual key (32), latent action tokens (37), proprioception (35), fused (38).

Cosines are computed from int8 in integers, and sums in the order of a row. So a result does not depend on the position
of a step, the number of threads or the processor's instructions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numkong
import numpy as np

from efn_ros.features.keys import mean_latent
from efn_ros.features.sketches import quantise
from efn_ros.types import RetrievalQuery

SMALLEST_SIGMA = 1e-6  # an entry of proprioception with a smaller one is ignored


@dataclass(frozen=True)
class Cues:
    """Parallel arrays by which C stored steps are compared."""

    key: np.ndarray  # int8 (C, d), the visual key
    key_norm: np.ndarray  # float32 (C,), one over the norm of `key`, 0 for a row of zeros
    latent_key: np.ndarray  # int8 (C, dz), the mean latent action token
    latent_norm: np.ndarray  # float32 (C,), one over the norm of `latent_key`
    proprio: np.ndarray  # float32 (C, P)


@dataclass(frozen=True)
class CueWeights:
    """Weights of the cues in the fused similarity, renormalised over those that a bank contains."""

    visual: float = 0.2  # of the visual key (32), which depends little on the arm's position
    latent: float = 0.4  # of the latent action tokens (37)
    proprio: float = 0.4  # of proprioception, by the kernel of (35)

    def normalised(self, cues: Cues) -> np.ndarray:
        """Return the weights, float32 (3,), so that they sum to 1 over the cues with entries.

        Raises:
            ValueError: No cue with entries has weight.
        """
        present = (True, cues.latent_key.shape[1] > 0, cues.proprio.shape[1] > 0)
        weights = np.where(present, (self.visual, self.latent, self.proprio), 0)
        if not weights.any():
            raise ValueError("the bank contains no cue that has weight; increase weight visual, latent or proprio")
        return (weights / weights.sum()).astype(np.float32)


class FusedSimilarity:
    """Weighted sum of the similarities of all cues to C stored steps.

    Instead of S_image it has a term for proprioception. Its cosines are those of `cosine_similarity`, for all steps at
    once.

    Attributes:
        visual_weight: Normalised weight of the visual key.

    Source: equations (32), (37), (38).
    """

    def __init__(self, cues: Cues, weights: CueWeights, proprio_sigma: float | Sequence[float] | None = None) -> None:
        """Prepare the comparison with C steps.

        Args:
            cues: Of the steps.
            weights: Of the cues; renormalised over those that have entries.
            proprio_sigma: Sigma of the kernel, in units of proprioception, one for each entry or one for all; None
                takes a third of the steps' range, entry by entry, as appendix D.9 advises.

        Raises:
            ValueError: No cue with entries has weight.
        """
        self.visual_weight, latent_weight, self._proprio_weight = weights.normalised(cues)
        self._shapes = {
            name: values.shape[1:]
            for name, values in (("key", cues.key), ("latent", cues.latent_key), ("proprio", cues.proprio))
        }
        self._count = len(cues.key)
        # A cosine contributes (1 + cosine) / 2, of which this part does not depend on the query.
        self._constant = (self.visual_weight + latent_weight) / 2
        self._cosines = {
            name: (numkong.dots_pack(q, "int8"), weight / 2 * norm)
            for name, q, weight, norm in (
                ("key", cues.key, self.visual_weight, cues.key_norm),
                ("latent", cues.latent_key, latent_weight, cues.latent_norm),
            )
            if weight
        }
        self._scale = np.sqrt(kernel_precision(cues.proprio, proprio_sigma))
        self._scaled_proprio = np.ascontiguousarray((cues.proprio * self._scale).T)

    def __call__(self, query: RetrievalQuery) -> np.ndarray:
        """Return the similarity of every step to a query, float32 (C,) in [0, 1].

        Raises:
            ValueError: The query has other sizes than the steps.
        """
        keys = {"key": query.key.q, "latent": quantise(mean_latent(query.latent)).q}
        for name, value in (*keys.items(), ("proprio", query.proprio)):
            if np.shape(value) != self._shapes[name]:
                raise ValueError(
                    f"{name} of the query has shape {np.shape(value)}; the bank holds {self._shapes[name]}"
                )
        similarity = np.full(self._count, self._constant, np.float32)
        for name, (packed, weight) in self._cosines.items():
            q = np.ascontiguousarray(keys[name])
            products = np.asarray(numkong.dots_packed(q[None], packed))[0]
            norm = math.sqrt(max(int(np.asarray(numkong.dot(q, q))), 1))
            similarity += np.multiply(products, weight * np.float32(1 / norm), dtype=np.float32)
        if self._proprio_weight:
            scaled = self._scale * np.asarray(query.proprio, np.float32)
            similarity += self._proprio_weight * gaussian_kernel(self._scaled_proprio, scaled)
        return np.clip(similarity, 0, 1, out=similarity)


def cosine_similarity(q: np.ndarray, norm: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return (1 + cosine) / 2 of rows and a query, float32 (N,) in [0, 1]: one cue of `FusedSimilarity` by itself.

    Args:
        q: Rows, int8 (N, d).
        norm: One over the norm of each row, float32 (N,).
        query: int8 (d,).
    """
    length = math.sqrt(max(int(np.dot(query.astype(np.int64), query)), 1))
    return ((1 + np.einsum("nd,d->n", q, query, dtype=np.int64) * norm / length) / 2).astype(np.float32)


def gaussian_kernel(scaled: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return exp(-sum_k (x_k - query_k)^2 / (2 sigma_k^2)), float32 (C,).

    Args:
        scaled: x divided by sigma * sqrt(2), float32 (K, C), one row an entry.
        query: float32 (K,), scaled in the same way.

    Source: equation (35).
    """
    distance = np.zeros(scaled.shape[1], np.float32)
    for column, value in zip(scaled, query, strict=True):
        difference = column - value
        distance += np.multiply(difference, difference, out=difference)
    return np.exp(np.negative(distance, out=distance), out=distance)


def kernel_precision(proprio: np.ndarray, sigma: float | Sequence[float] | None) -> np.ndarray:
    """Return 1 / (2 sigma^2) of (35) for each entry, float32 (P,); 0 for an entry that hardly changes.

    Args:
        proprio: float32 (C, P).
        sigma: As `proprio_sigma` of `FusedSimilarity`.
    """
    width = np.ptp(proprio, axis=0) / 3 if sigma is None else sigma
    width = np.broadcast_to(np.asarray(width, np.float32), proprio.shape[1:])
    return np.where(width > SMALLEST_SIGMA, 0.5 / np.maximum(width, SMALLEST_SIGMA) ** 2, 0).astype(np.float32)
