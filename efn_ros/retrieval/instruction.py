"""The instruction filter, equation (17): rollouts whose instruction is similar to the present one."""

from __future__ import annotations

import faiss
import numpy as np

from efn_ros.bank.store.snapshot import Contents
from efn_ros.features.keys import unit

DECIMALS = 5  # of an instruction's cosine: the same one ties whatever the last bit of its embedding


def likeness(contents: Contents, embedding: np.ndarray) -> np.ndarray:
    """Cosine of every rollout's instruction to the one embedded here, (E,), as (17) compares them; float32 (R,). Raises
    ValueError for an embedding of another size than the bank's."""
    wanted, known = unit(np.asarray(embedding)), contents.embeddings
    if wanted.shape != known.shape[1:]:
        raise ValueError(f"the instruction embedding has shape {wanted.shape}; the bank holds {known.shape[1:]}")
    cosines = np.empty(len(known), np.float32)
    faiss.fvec_inner_products_ny(*map(faiss.swig_ptr, (cosines, wanted, known)), wanted.size, len(known))
    return np.round(cosines, DECIMALS)[contents.instruction]
