# SPDX-License-Identifier: MIT
"""A change of the latent action tokens as a residual on the action, so that every limit on residuals applies to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


def latent_residual(decode: Callable[[Array, Array], Array], latent: Array, visual: Array, change: Array) -> Array:
    """Return decode(Z + dZ, V) - decode(Z, V), which is zero where dZ is.

    Args:
        decode: The frozen decoder D, from Z and V to an action.
        latent: Z, (..., L, dz), float32, an array or a tensor, as all others.
        visual: V, (..., T, D).
        change: dZ, (..., L, dz), in the units of Z.

    Returns:
        The residual, (..., H, A), in the units of the action; it carries gradients of tensors.

    Raises:
        ValueError: The change has another shape than Z.

    Source: equation (2).
    """
    if change.shape != latent.shape:
        raise ValueError(f"change has shape {tuple(change.shape)}; the latent tokens have {tuple(latent.shape)}")
    # The base action may differ from decode(Z, V) by rounding; without a change the residual must be exactly zero.
    return decode(latent + change, visual) - decode(latent, visual)


def latent_bound(latents: np.ndarray, share: float) -> np.ndarray:
    """Return the largest change of each channel, float32 (dz,): a decoder is accurate only near its training data.

    Args:
        latents: Z of N samples, (N, L, dz).
        share: Of the standard deviation of each channel.

    Raises:
        ValueError: The share is negative or not finite.
    """
    if not 0 <= share < np.inf:
        raise ValueError(f"share is {share}; it must be finite and at least 0")
    return (share * np.asarray(latents, np.float32).reshape(-1, latents.shape[-1]).std(axis=0)).astype(np.float32)
