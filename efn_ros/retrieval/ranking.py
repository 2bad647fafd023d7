"""Ranking and sampling of candidates, equations (18) and (19)."""

from __future__ import annotations

import numpy as np


def _best(score: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, largest first; among equal ones the smaller index first."""
    if len(score) > k:
        kth = np.partition(score, len(score) - k)[len(score) - k]
        above, level = np.flatnonzero(score > kth), np.flatnonzero(score == kth)
        chosen = np.concatenate([above, level[: k - len(above)]])
    else:
        chosen = np.arange(len(score))
    return chosen[np.lexsort((chosen, -score[chosen]))]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
