"""Codes: the few numbers kept of a token sketch, for a network that reads what recalled steps saw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from efn_ros.types import Quantised

MEAN, BASIS = "code_mean", "code_basis"  # as the network's weights name them
DECIMALS = 3  # codes vary by about 1; so they are the same whatever the last bit of a product is


class Codes:
    """A fixed linear encoder of sketches: mean (T d,) is taken away, basis (T d, C) maps what is left.

    `identity` is a digest of both: a network understands no codes but its own.
    """

    def __init__(self, mean: np.ndarray, basis: np.ndarray) -> None:
        self.mean, self.basis = np.asarray(mean, np.float32), np.asarray(basis, np.float32)
        content = self.mean.astype("<f4").tobytes() + self.basis.astype("<f4").tobytes()
        self.identity = hashlib.blake2b(content, digest_size=8).hexdigest()

    @classmethod
    def load(cls, weights: Path) -> Codes:
        """Of a network's safetensors file. Raises FileNotFoundError, and ValueError for one that holds none."""
        try:
            with safe_open(weights, framework="numpy") as file:
                return cls(file.get_tensor(MEAN), file.get_tensor(BASIS))
        except SafetensorError as error:
            raise ValueError(f"{weights} holds no codes; name another EFN, or none, in codes: {error}") from error

    def __call__(self, sketches: Sequence[Quantised]) -> np.ndarray:
        """(N, C) float32. Raises ValueError for sketches of another size."""
        rows = np.stack([sketch.dequantise().ravel() for sketch in sketches])
        if rows.shape[1] != len(self.mean):
            raise ValueError(f"a sketch has {rows.shape[1]} numbers; the EFN of these codes reads {len(self.mean)}")
        return np.round((rows - self.mean) @ self.basis, DECIMALS)


def principal_components(sketches: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of sketches (N, T d), float32: their mean (T d,) and the basis (T d, count) that whitens."""
    mean = sketches.mean(axis=0)
    values, vectors = np.linalg.eigh((centred := sketches - mean) @ centred.T)  # of fewer rows than columns
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    return mean, (centred.T @ vectors * np.sqrt(len(sketches)) / values).astype(np.float32)
