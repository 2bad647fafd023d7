"""Compact forms of visual tokens: a fixed random projection, then one byte a number."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from efn_ros.features.keys import mean_max_key, unit
from efn_ros.types import Quantised

DELTA = 1e-8  # of equation (31): keeps the scale of a zero row above zero


def quantise(vectors: np.ndarray) -> Quantised:
    """Equation (31): rows (..., d) to int8 q (..., d), float32 scale (...,); scale * q is within scale / 2 of them."""
    vectors = np.asarray(vectors, np.float32)
    scale = np.asarray(np.abs(vectors).max(axis=-1, initial=0) / np.float32(127) + np.float32(DELTA), np.float32)
    q = np.rint(vectors / scale[..., None]).clip(-127, 127).astype(np.int8)
    return Quantised(q=q, scale=scale)


def inverse_norm(q: np.ndarray) -> np.ndarray:
    """Return one over the norm of each row of int8 (N, d), 0 for a row of zeros; float32 (N,)."""
    squares = np.einsum("nd,nd->n", q, q, dtype=np.int64)
    return np.where(squares > 0, 1 / np.sqrt(np.maximum(squares, 1)), 0).astype(np.float32)


class Projection:
    """The Johnson-Lindenstrauss matrix of equation (30), float32 (input_size, output_size), the same for ever.

    Its entries are +-1 / sqrt(output_size), their signs the raw bits of PCG64(seed): those NumPy promises to keep,
    which it does not for its normal deviates. `identity` names sizes, seed and a digest of the matrix; a bank remembers
    it. Raises ValueError for a size below 1 or a negative seed.
    """

    def __init__(self, input_size: int, output_size: int = 256, seed: int = 0) -> None:
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
    def named(cls, identity: str) -> Projection:
        """The projection of that identity. Raises ValueError where this program would make another."""
        match = re.fullmatch(r"signs-(\d+)x(\d+)-seed(\d+)-[0-9a-f]+", identity)
        made = cls(*map(int, match.groups())) if match else None
        if made is None or made.identity != identity:
            raise ValueError(f"projection {identity!r} cannot be made by this efn_ros; use the one that made it")
        return made

    def describe(self, tokens: np.ndarray) -> Quantised:
        """Visual tokens (T, D) to their compact descriptor, (4)(5)(30)(31): q int8 (d,), scale float32 ()."""
        return quantise(unit(mean_max_key(self._checked(tokens)) @ self.matrix))

    def sketch(self, tokens: np.ndarray) -> Quantised:
        """Every visual token (T, D) projected, normalised (30), quantised (31): q int8 (T, d), scale float32 (T,)."""
        return quantise(unit(self._checked(tokens) @ self.matrix))

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        tokens = np.asarray(tokens, np.float32)
        if tokens.shape[-1] != self.input_size:
            raise ValueError(
                f"visual tokens have {tokens.shape[-1]} channels; projection {self.identity} takes {self.input_size}"
            )
        return tokens

    def __repr__(self) -> str:
        return f"Projection({self.input_size}, {self.output_size}, seed={self.seed})"
