# SPDX-License-Identifier: MIT
"""Choice of the rollouts whose steps are compared: eligibility, the instruction filter (17), and the bound on steps."""

from __future__ import annotations

import faiss
import numpy as np

from efn_ros.bank.store.snapshot import Contents, Snapshot
from efn_ros.features.keys import unit
from efn_ros.retrieval.ranking import top_k

DECIMALS = 5  # of a cosine: equal instructions tie, whatever the last bits of their embeddings are


def eligible_rollouts(contents: Contents, policy: str, success_only: bool) -> tuple[np.ndarray, str]:
    """Return which rollouts may be recalled, bool (R,), and a reason if none may.

    Args:
        contents: Of the bank.
        policy: Fingerprint of the policy whose rollouts are comparable; empty: any.
        success_only: Leave out rollouts that did not succeed.
    """
    eligible = contents.recallable.copy()
    for mask, reason in (
        (True, "the bank is empty"),
        (not policy or contents.policy == contents.policies.get(policy), "the bank has no rollout of this policy"),
        (not success_only or contents.success, "the bank has no successful rollout"),
    ):
        eligible &= mask
        if not eligible.any():
            return eligible, reason
    return eligible, ""


def instruction_similarity(contents: Contents, embedding: np.ndarray) -> np.ndarray:
    """Return the cosine of every rollout's instruction to an embedding (E,), float32 (R,).

    Raises:
        ValueError: The embedding has another size than the bank's.
    """
    query, known = unit(np.asarray(embedding)), contents.embeddings
    if query.shape != known.shape[1:]:
        raise ValueError(f"the instruction embedding has shape {query.shape}; the bank holds {known.shape[1:]}")
    cosines = np.empty(len(known), np.float32)
    pointers = map(faiss.swig_ptr, (cosines, query, known))
    faiss.fvec_inner_products_ny(*pointers, query.size, len(known))  # pyright: ignore[reportAttributeAccessIssue]
    return np.round(cosines, DECIMALS)[contents.instruction]


def top_rollouts(contents: Contents, eligible: np.ndarray, embedding: np.ndarray, n: int) -> np.ndarray:
    """Return the n eligible rollouts with the most similar instruction, of equally similar ones the newest.

    Args:
        contents: Of the bank.
        eligible: bool (R,).
        embedding: Of the instruction, (E,).
        n: How many.

    Returns:
        Their indices, most similar first.

    Source: equation (17).
    """
    cosines = np.where(eligible, instruction_similarity(contents, embedding), -np.inf)
    newest = top_k(cosines[::-1], min(n, int(eligible.sum())))
    return len(cosines) - 1 - newest


def bound_steps(snapshot: Snapshot, ranked: np.ndarray, max_steps: int) -> np.ndarray:
    """Return the first rollouts of a ranking that together have at most `max_steps`, at least one, oldest first."""
    steps = np.cumsum([snapshot.rollouts[i].record.decisions for i in ranked])
    return np.sort(ranked[: max(1, int((steps <= max_steps).sum()))])
