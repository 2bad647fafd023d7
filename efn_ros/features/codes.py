# SPDX-License-Identifier: MIT
"""Codes: short vectors that a fixed linear encoder makes of token sketches, as input of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from efn_ros.types import Quantised

MEAN, BASIS = "code_mean", "code_basis"  # names in the network's weights
DECIMALS = 3  # codes vary by about 1; rounding hides the last bits of a product, which depend on the machine


class SketchEncoder:
    """Linear encoder of sketches: (sketch - mean) basis.

    Attributes:
        mean: float32 (T d,).
        basis: float32 (T d, C).
        identity: Digest of both; a network reads only the codes of its own encoder.
    """

    def __init__(self, mean: np.ndarray, basis: np.ndarray) -> None:
        self.mean, self.basis = np.asarray(mean, np.float32), np.asarray(basis, np.float32)
        content = self.mean.astype("<f4").tobytes() + self.basis.astype("<f4").tobytes()
        self.identity = hashlib.blake2b(content, digest_size=8).hexdigest()

    @classmethod
    def load(cls, weights: Path) -> SketchEncoder:
        """Load the encoder from a network's safetensors file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It contains no encoder.
        """
        try:
            with safe_open(weights, framework="numpy") as file:
                return cls(file.get_tensor(MEAN), file.get_tensor(BASIS))
        except SafetensorError as error:
            raise ValueError(
                f"{weights} contains no encoder; set codes to another EFN, or leave it empty: {error}"
            ) from error

    def __call__(self, sketches: Sequence[Quantised]) -> np.ndarray:
        """Encode N sketches, float32 (N, C).

        Raises:
            ValueError: The sketches have another size than the encoder reads.
        """
        rows = np.stack([sketch.dequantise().ravel() for sketch in sketches])
        if rows.shape[1] != len(self.mean):
            raise ValueError(f"a sketch has {rows.shape[1]} numbers; the EFN of these codes reads {len(self.mean)}")
        return np.round((rows - self.mean) @ self.basis, DECIMALS)


def principal_components(sketches: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the whitening encoder of `count` principal components.

    Args:
        sketches: float32 (N, T d), with N below T d.
        count: Components, C.

    Returns:
        Mean (T d,) and basis, float32 (T d, C).
    """
    mean = sketches.mean(axis=0)
    centred = sketches - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    return mean, (centred.T @ vectors * np.sqrt(len(sketches)) / values).astype(np.float32)
