"""A residual in latent-token space, (1)(2): added to Z, and decoded by the frozen decoder (section 5 and appendix B).

What goes out stays a residual on the action, so every limit around it holds as for any other.
"""

from __future__ import annotations

import numpy as np

from efn_ros.policies.policy import FrozenPolicy, PolicyOutput


def latent_residual(policy: FrozenPolicy, output: PolicyOutput, change: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """The residual (H, A), float32, that `change` of the latent tokens makes: decode(Z + dZ, V) - decode(Z, V).

    change: (L, dz), any size; dZ = bound tanh(change). bound: (dz,), largest change of each channel, in the units of Z;
    decoders are known only near what they were trained on. Zero where `change` is. Raises ValueError for another shape
    and for a bound that is negative or not finite.
    """
    for name, found, expected in (
        ("change", np.shape(change), output.latent.shape),
        ("bound", np.shape(bound), output.latent.shape[-1:]),
    ):
        if found != expected:
            raise ValueError(f"{name} has shape {found}; the policy's latent tokens ask for {expected}")
    if not (np.isfinite(bound).all() and np.min(bound) >= 0):
        raise ValueError(f"bound is {bound}; each channel needs one, finite and at least 0")
    moved = output.latent + (np.asarray(bound) * np.tanh(change)).astype(np.float32)
    # Not less the base: where nothing changes, nothing must come out, to the last bit.
    return policy.decode(moved, output.visual) - policy.decode(output.latent, output.visual)


def latent_bound(latents: np.ndarray, share: float) -> np.ndarray:
    """(dz,), float32: `share` of the standard deviation of each channel over latent tokens (N, L, dz) that were met.

    Raises ValueError for a negative share.
    """
    if not 0 <= share < np.inf:
        raise ValueError(f"share is {share}; it must be finite and at least 0")
    return (share * np.asarray(latents, np.float32).reshape(-1, latents.shape[-1]).std(axis=0)).astype(np.float32)
