"""What is compared of an observation: one vector out of all its visual tokens, and one out of its latent ones."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-8


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (..., D) divided by their l2 norm plus epsilon, float32; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    norm = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
    return vectors / (norm + EPSILON)[..., None]


def mean_max_key(tokens: np.ndarray) -> np.ndarray:
    """Equations (4)(5) = (28)(29): visual tokens (..., T, D) to unit keys (..., D), float32.

    Each token is normalised over its channels; mean and maximum over the tokens, each normalised, are averaged and
    normalised. Raises ValueError where there is no token.
    """
    tokens = np.asarray(tokens, np.float32)
    if tokens.ndim < 2 or tokens.shape[-2] == 0:
        raise ValueError(f"visual tokens have shape {tokens.shape}; a key needs (..., T, D) with T >= 1")
    tokens = unit(tokens)
    return unit((unit(tokens.mean(axis=-2)) + unit(tokens.max(axis=-2))) / 2)


def mean_latent(latent: np.ndarray) -> np.ndarray:
    """Latent action tokens (..., L, dz) to their mean at unit norm (..., dz), as in (37); (..., 0) if empty."""
    latent = np.asarray(latent, np.float32)
    return unit(latent.mean(axis=-2)) if latent.size else np.zeros((*latent.shape[:-2], 0), np.float32)
