"""A residual in latent-token space, (1)(2): added to Z, and decoded by the frozen decoder (section 5 and appendix B).

What goes out stays a residual on the action, so every limit around it holds as for any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


def latent_residual(decode: Callable[[Array, Array], Array], latent: Array, visual: Array, change: Array) -> Array:
    """Return the residual that a change of the latent tokens makes: decode(Z + dZ, V) - decode(Z, V), zero where dZ is.

    All float32, arrays or tensors; through tensors gradients flow.

    Args:
        decode: Equation (2).
        latent: Z, (..., L, dz).
        visual: V, (..., T, D).
        change: dZ, (..., L, dz), in the units of Z.

    Returns:
        (..., H, A), in the units of the action.

    Raises:
        ValueError: The change is of another shape than Z.
    """
    if change.shape != latent.shape:
        raise ValueError(f"change has shape {tuple(change.shape)}; the latent tokens have {tuple(latent.shape)}")
    # Not less the base: where nothing changes, nothing must come out, to the last bit.
    return decode(latent + change, visual) - decode(latent, visual)


def latent_bound(latents: np.ndarray, share: float) -> np.ndarray:
    """Return `share` of the standard deviation of each channel over latent tokens (N, L, dz), float32 (dz,).

    Decoders are known only near what they were trained on.

    Raises:
        ValueError: The share is negative or not finite.
    """
    if not 0 <= share < np.inf:
        raise ValueError(f"share is {share}; it must be finite and at least 0")
    return (share * np.asarray(latents, np.float32).reshape(-1, latents.shape[-1]).std(axis=0)).astype(np.float32)
