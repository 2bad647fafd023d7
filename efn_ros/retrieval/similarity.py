"""Similarity of a query to bank steps: visual key (32), latent action tokens (37), proprioception (35), fused (38).

Cosines are taken over int8 in whole numbers, and sums in the order of a row. So a result does not depend on where a
step lies, on the number of threads or on the processor's instructions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numkong
import numpy as np

from efn_ros.features.keys import mean_latent
from efn_ros.features.sketches import quantise
from efn_ros.types import PolicyStep, RetrievalQuery

SMALLEST_RANGE = 1e-6  # of an entry of proprioception that changes at all


@dataclass(frozen=True)
class Cues:
    """What C remembered steps are compared by, side by side."""

    key: np.ndarray  # int8 (C, d), the visual key
    key_norm: np.ndarray  # float32 (C,), one over the norm of `key`, 0 for a row of zeros
    latent_key: np.ndarray  # int8 (C, dz), the mean latent action token
    latent_norm: np.ndarray  # float32 (C,), likewise
    proprio: np.ndarray  # float32 (C, P)


@dataclass(frozen=True)
class CueWeights:
    """Weights of the cues in the fused similarity, renormalised over those that a bank holds."""

    visual: float = 0.2  # of the visual key (32), which hardly changes with the arm's position
    latent: float = 0.4  # of the latent action tokens (37)
    proprio: float = 0.4  # of proprioception, by the kernel of (35)

    def over(self, cues: Cues) -> np.ndarray:
        """Return the weights, float32 (3,), that sum to 1 over the cues that are there.

        Raises:
            ValueError: None of the cues that have weight is there.
        """
        there = (True, cues.latent_key.shape[1] > 0, cues.proprio.shape[1] > 0)
        weights = np.where(there, (self.visual, self.latent, self.proprio), 0)
        if not weights.any():
            raise ValueError("the bank holds none of the cues that have weight; give visual, latent or proprio some")
        return (weights / weights.sum()).astype(np.float32)


class FusedSimilarity:
    """The additive fusion of all cues over C remembered steps.

    Source: equation (38), without S_image, and its terms (32) and (37).
    """

    def __init__(self, cues: Cues, weights: CueWeights, proprio_sigma: float | Sequence[float] | None = None) -> None:
        """Prepare the comparison with C steps.

        Args:
            cues: Of the steps.
            weights: Of the cues; renormalised over those that are there.
            proprio_sigma: Sigma of the kernel, in units of proprioception, one for each entry or one for all; None
                takes a third of the steps' range, entry by entry, as appendix D.9 advises.

        Raises:
            ValueError: None of the cues that have weight is there.
        """
        self.visual_weight, latent_weight, self._proprio_weight = weights.over(cues)
        self._shapes = {
            name: values.shape[1:]
            for name, values in (("key", cues.key), ("latent", cues.latent_key), ("proprio", cues.proprio))
        }
        self._count = len(cues.key)
        # A cosine contributes (1 + cosine) / 2; this is the part that does not depend on the query.
        self._constant = (self.visual_weight + latent_weight) / 2
        self._cosines = {
            name: (numkong.dots_pack(q, "int8"), weight / 2 * norm)
            for name, q, weight, norm in (
                ("key", cues.key, self.visual_weight, cues.key_norm),
                ("latent", cues.latent_key, latent_weight, cues.latent_norm),
            )
            if weight
        }
        self._scale = np.sqrt(half_precision(cues.proprio, proprio_sigma))
        self._scaled_proprio = np.ascontiguousarray((cues.proprio * self._scale).T)

    def __call__(self, query: RetrievalQuery | PolicyStep) -> np.ndarray:
        """Return the similarity of every step to a query, float32 (C,) in [0, 1].

        Raises:
            ValueError: The query is of other sizes than the steps.
        """
        asked = {"key": query.key.q, "latent": quantise(mean_latent(query.latent)).q}
        for name, found in (*asked.items(), ("proprio", query.proprio)):
            if np.shape(found) != self._shapes[name]:
                raise ValueError(
                    f"{name} of the query has shape {np.shape(found)}; the bank holds {self._shapes[name]}"
                )
        similarity = np.full(self._count, self._constant, np.float32)
        for name, (packed, weight) in self._cosines.items():
            q = np.ascontiguousarray(asked[name])
            products = np.asarray(numkong.dots_packed(q[None], packed))[0]
            norm = math.sqrt(max(int(numkong.dot(q, q)), 1))
            similarity += np.multiply(products, weight * np.float32(1 / norm), dtype=np.float32)
        if self._proprio_weight:
            here = self._scale * np.asarray(query.proprio, np.float32)
            similarity += self._proprio_weight * gaussian_kernel(self._scaled_proprio, here)
        return np.clip(similarity, 0, 1, out=similarity)


def cosine_similarity(q: np.ndarray, norm: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return (1 + cosine) / 2 of rows int8 (N, d) and a query int8 (d,), float32 (N,) in [0, 1].

    norm: float32 (N,), one over the norm of each row.

    Source: equations (32) and (37).
    """
    length = math.sqrt(max(int(np.dot(query.astype(np.int64), query)), 1))
    return ((1 + np.einsum("nd,d->n", q, query, dtype=np.int64) * norm / length) / 2).astype(np.float32)


def gaussian_kernel(scaled: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return exp(-sum_k (scaled_k - query_k)^2), float32 (C,).

    Args:
        scaled: float32 (K, C), entries over sigma * sqrt(2), one row an entry.
        query: float32 (K,), scaled likewise.

    Source: equation (35).
    """
    distance = np.zeros(scaled.shape[1], np.float32)
    for column, value in zip(scaled, query, strict=True):
        difference = column - value
        distance += np.multiply(difference, difference, out=difference)
    return np.exp(np.negative(distance, out=distance), out=distance)


def half_precision(proprio: np.ndarray, sigma: float | Sequence[float] | None) -> np.ndarray:
    """Return 1 / (2 sigma^2) of equation (35) for each entry, float32 (P,); 0 for one that never changes.

    Args:
        proprio: float32 (C, P).
        sigma: As `proprio_sigma` of `FusedSimilarity`.
    """
    if sigma is None:
        sigma = np.ptp(proprio, axis=0) / 3
    sigma = np.broadcast_to(np.asarray(sigma, np.float32), proprio.shape[1:])
    return np.where(sigma > SMALLEST_RANGE, 0.5 / np.maximum(sigma, SMALLEST_RANGE) ** 2, 0).astype(np.float32)


def convex_combination(terms: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of terms, float32 (N,) each; NaN says that a term is absent from a row.

    Weights are renormalised row by row over the terms that are there; a row without any is NaN.

    Raises:
        ValueError: The weights are not as many as the terms, negative, or all 0.
    """
    weights = np.asarray(weights, np.float32)
    if len(weights) != len(terms) or not np.all(weights >= 0) or not 0 < weights.sum() < np.inf:
        raise ValueError(f"weights are {weights.tolist()}; they must be {len(terms)}, none negative, not all 0")
    stacked = np.stack(terms, axis=1).astype(np.float32)
    weights = np.where(np.isnan(stacked), 0, weights)
    total = weights.sum(axis=1)
    mean = (weights * np.nan_to_num(stacked, nan=0)).sum(axis=1) / np.where(total > 0, total, np.nan)
    return np.clip(mean, 0, 1)
