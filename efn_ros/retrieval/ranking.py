# SPDX-License-Identifier: MIT
"""Ranking of candidates by similarity and efficiency, equation (18), and sampling among the best, equation (19)."""

from __future__ import annotations

import numpy as np


def efficiency_prior(lengths: np.ndarray, beta: float) -> np.ndarray:
    """Return g(L) = exp(-beta L / mean L) of rollout lengths, float32 (R,), which prefers shorter rollouts in (18)."""
    return np.exp(-np.float32(beta) * lengths / lengths.mean())


def score(similarity: np.ndarray, prior: np.ndarray, lambda_: float) -> np.ndarray:
    """Return lambda * similarity + (1 - lambda) * prior, float32 (C,), with the prior of `efficiency_prior`.

    Source: equation (18).
    """
    weight = np.float32(lambda_)
    return weight * similarity + (1 - weight) * prior


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k largest scores, largest first; of equal ones the smaller index first."""
    if len(scores) > k:
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        above, equal = np.flatnonzero(scores > kth), np.flatnonzero(scores == kth)
        chosen = np.concatenate([above, equal[: k - len(above)]])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.lexsort((chosen, -scores[chosen]))]


def sampling_probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return the softmax of scores over a temperature, float64 (k,); without a prior the scores are similarities, (6).

    Source: equations (6), (19).
    """
    logits = scores.astype(np.float64) / temperature
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def sample(probabilities: np.ndarray, rng: np.random.Generator) -> int:
    """Draw an index with these probabilities."""
    drawn = int(np.searchsorted(np.cumsum(probabilities), rng.random(), side="right"))
    return min(drawn, len(probabilities) - 1)
