# SPDX-License-Identifier: MIT
"""Retrieval keys of an observation: one vector from its visual tokens, one from its latent action tokens."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-8


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divide rows (..., D) by their l2 norm plus epsilon, float32; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    norm = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
    return vectors / (norm + EPSILON)[..., None]


def mean_max_key(tokens: np.ndarray) -> np.ndarray:
    """Fuse visual tokens into one key: the normalised average of their normalised mean and maximum.

    Args:
        tokens: (..., T, D); each token is normalised over its channels first.

    Returns:
        Unit keys, float32 (..., D).

    Raises:
        ValueError: There is no token.

    Source: equations (4), (5), (28), (29).
    """
    tokens = np.asarray(tokens, np.float32)
    if tokens.ndim < 2 or tokens.shape[-2] == 0:
        raise ValueError(f"visual tokens have shape {tokens.shape}; a key needs (..., T, D) with T >= 1")
    tokens = unit(tokens)
    return unit((unit(tokens.mean(axis=-2)) + unit(tokens.max(axis=-2))) / 2)


def mean_latent(latent: np.ndarray) -> np.ndarray:
    """Return the unit mean of latent action tokens (..., L, dz) for (37), float32 (..., dz); (..., 0) without any."""
    latent = np.asarray(latent, np.float32)
    return unit(latent.mean(axis=-2)) if latent.size else np.zeros((*latent.shape[:-2], 0), np.float32)
