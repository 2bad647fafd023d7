# SPDX-License-Identifier: MIT
"""The best candidates of a recall, whose images are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.retrieval.candidates import Candidates
from efn_ros.retrieval.similarity import cosine_similarity
from efn_ros.types import RetrievalQuery


class StoredStep(NamedTuple):
    """A decision in a bank."""

    rollout: StoredRollout
    payload: PayloadFile  # of the rollout, open
    row: int  # of the decision in the payload
    proprio: np.ndarray  # (P,)


@dataclass(frozen=True)
class Shortlist:
    """N candidates beside the present step."""

    steps: Sequence[StoredStep]  # the candidates that are compared, best first
    q: np.ndarray  # their visual keys, int8 (N, d)
    present: np.ndarray  # the visual key of the present step, int8 (d,)
    coarse: np.ndarray  # similarity without images, float32 (N,)
    embed: np.ndarray  # S_embed (32), float32 (N,)
    phase: np.ndarray  # mean of the other cues in `coarse`, float32 (N,); NaN where it has none


def make_shortlist(
    candidates: Candidates, chosen: np.ndarray, similarity: np.ndarray, query: RetrievalQuery
) -> Shortlist:
    """Return the shortlist of some candidates.

    Args:
        candidates: All of the episode.
        chosen: Indices of those in the shortlist, int (N,).
        similarity: Of all candidates, float32 (C,).
        query: The present step.
    """
    row = candidates.rows[chosen]
    rollout, place = candidates.rollout_of_row[row], row - candidates.first[candidates.rollout_of_row[row]]
    steps = [
        StoredStep(candidates.rollouts[of], candidates.payloads[of], at, proprio)
        for of, at, proprio in zip(rollout.tolist(), place.tolist(), candidates.column["proprio"][row], strict=True)
    ]
    q, norm = candidates.cues.key[chosen], candidates.cues.key_norm[chosen]
    coarse, embed = similarity[chosen], cosine_similarity(q, norm, query.key.q)
    visual = candidates.similarity.visual_weight
    rest = 1 - visual
    phase = np.clip((coarse - visual * embed) / rest, 0, 1) if rest > 0 else np.full_like(coarse, np.nan)
    return Shortlist(steps, q, query.key.q, coarse, embed, phase)
