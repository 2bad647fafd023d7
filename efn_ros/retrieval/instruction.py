"""The instruction filter, equation (17): the rollouts whose instruction is most similar to the present one."""

from __future__ import annotations

import faiss
import numpy as np

from efn_ros.bank.store.snapshot import Contents
from efn_ros.features.keys import unit
from efn_ros.retrieval.ranking import top_k

DECIMALS = 5  # of a cosine: the same instruction ties whatever the last bit of its embedding


def instruction_similarity(contents: Contents, embedding: np.ndarray) -> np.ndarray:
    """Return the cosine of every rollout's instruction to an embedding (E,), float32 (R,).

    Raises:
        ValueError: The embedding is of another size than the bank's.
    """
    wanted, known = unit(np.asarray(embedding)), contents.embeddings
    if wanted.shape != known.shape[1:]:
        raise ValueError(f"the instruction embedding has shape {wanted.shape}; the bank holds {known.shape[1:]}")
    cosines = np.empty(len(known), np.float32)
    faiss.fvec_inner_products_ny(*map(faiss.swig_ptr, (cosines, wanted, known)), wanted.size, len(known))
    return np.round(cosines, DECIMALS)[contents.instruction]


def top_rollouts(contents: Contents, eligible: np.ndarray, embedding: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of the n eligible rollouts with the most similar instruction, most similar first.

    Of equally similar ones the newest come first. eligible: bool (R,).

    Source: equation (17).
    """
    cosines = np.where(eligible, instruction_similarity(contents, embedding), -np.inf)
    newest = top_k(cosines[::-1], min(n, int(eligible.sum())))
    return len(cosines) - 1 - newest
