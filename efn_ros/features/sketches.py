# SPDX-License-Identifier: MIT
"""Compact forms of visual tokens: a fixed random projection, then one byte a number."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from efn_ros.features.keys import mean_max_key, unit
from efn_ros.types import Quantised

DELTA = 1e-8  # of (31): keeps the scale of a zero row above zero


def quantise(vectors: np.ndarray) -> Quantised:
    """Quantise rows (..., d) to int8 with one float32 scale a row; the error is at most half a scale.

    Source: equation (31).
    """
    vectors = np.asarray(vectors, np.float32)
    scale = np.asarray(np.abs(vectors).max(axis=-1, initial=0) / np.float32(127) + np.float32(DELTA), np.float32)
    q = np.rint(vectors / scale[..., None]).clip(-127, 127).astype(np.int8)
    return Quantised(q=q, scale=scale)


def inverse_norm(q: np.ndarray) -> np.ndarray:
    """Return one over the norm of each row of int8 (N, d), 0 for a row of zeros; float32 (N,)."""
    squares = np.einsum("nd,nd->n", q, q, dtype=np.int64)
    return np.where(squares > 0, 1 / np.sqrt(np.maximum(squares, 1)), 0).astype(np.float32)


class Projection:
    """A fixed Johnson-Lindenstrauss projection, the same on every machine and with every version of NumPy.

    The entries of its matrix are +-1 / sqrt(output_size). Their signs are the raw bits of PCG64(seed), which NumPy
    guarantees to keep; it does not guarantee that for its normal deviates.

    Attributes:
        matrix: float32 (input_size, output_size), read-only.
        identity: Sizes, seed and a digest of the matrix; a bank stores it.
    """

    def __init__(self, input_size: int, output_size: int = 256, seed: int = 0) -> None:
        """Make the matrix.

        Raises:
            ValueError: A size is below 1, or the seed is negative.
        """
        for name, value, least in (("input_size", input_size, 1), ("output_size", output_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} of the projection is {value}; it must be at least {least}")
        self.input_size, self.output_size, self.seed = int(input_size), int(output_size), int(seed)
        count = self.input_size * self.output_size
        words = np.random.PCG64(self.seed).random_raw(-(-count // 64)).astype("<u8")
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
        signs = (bits.astype(np.int8) * 2 - 1).reshape(self.input_size, self.output_size)
        self.matrix = signs.astype(np.float32) / np.float32(np.sqrt(self.output_size))
        self.matrix.flags.writeable = False
        digest = hashlib.blake2b(self.matrix.astype("<f4").tobytes(), digest_size=8).hexdigest()
        self.identity = f"signs-{self.input_size}x{self.output_size}-seed{self.seed}-{digest}"

    @classmethod
    def from_identity(cls, identity: str) -> Projection:
        """Make the projection of an identity.

        Raises:
            ValueError: This version of the program makes no projection of that identity.
        """
        match = re.fullmatch(r"signs-(\d+)x(\d+)-seed(\d+)-[0-9a-f]+", identity)
        made = cls(*map(int, match.groups())) if match else None
        if made is None or made.identity != identity:
            raise ValueError(f"projection {identity!r} cannot be made by this efn_ros; use the version that made it")
        return made

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Project vectors (..., D) to unit vectors, float32 (..., d).

        Raises:
            ValueError: The vectors have another number of channels than `input_size`.

        Source: equation (30).
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape[-1] != self.input_size:
            raise ValueError(
                f"visual tokens have {vectors.shape[-1]} channels; projection {self.identity} takes {self.input_size}"
            )
        return unit(vectors @ self.matrix)

    def describe(self, tokens: np.ndarray) -> Quantised:
        """Return the compact descriptor of visual tokens (T, D): q int8 (d,), scale float32 ()."""
        return quantise(self.project(mean_max_key(tokens)))

    def sketch(self, tokens: np.ndarray) -> Quantised:
        """Return every visual token (T, D) projected and quantised: q int8 (T, d), scale float32 (T,)."""
        return quantise(self.project(tokens))
