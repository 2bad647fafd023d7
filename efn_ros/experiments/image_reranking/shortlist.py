"""The best candidates of a recall, for whoever looks at their images."""

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


class RememberedStep(NamedTuple):
    """A decision in a bank: its rollout, the payload of that, open, its row there, and proprioception (P,)."""

    rollout: StoredRollout
    payload: PayloadFile
    row: int
    proprio: np.ndarray


@dataclass(frozen=True)
class Shortlist:
    """N candidates beside the present step. q: int8 (N, d), their keys; present: (d,), its own. coarse: float32 (N,),
    the similarity without images; embed: S_embed (32); phase: the mean of what else `coarse` holds, NaN for nothing."""

    steps: Sequence[RememberedStep]
    q: np.ndarray
    present: np.ndarray
    coarse: np.ndarray
    embed: np.ndarray
    phase: np.ndarray


def make_shortlist(
    candidates: Candidates, chosen: np.ndarray, similarity: np.ndarray, query: RetrievalQuery
) -> Shortlist:
    """Return what is compared of the candidates `chosen`, int (N,). similarity: of all candidates, float32 (C,)."""
    row = candidates.row[chosen]
    rollout, place = candidates.rollout[row], row - candidates.first[candidates.rollout[row]]
    steps = [
        RememberedStep(candidates.rollouts[of], candidates.payloads[of], at, proprio)
        for of, at, proprio in zip(rollout.tolist(), place.tolist(), candidates.column["proprio"][row], strict=True)
    ]
    q, norm = candidates.cues.key[chosen], candidates.cues.key_norm[chosen]
    coarse, embed = similarity[chosen], cosine_similarity(q, norm, query.key.q)
    visual = candidates.similarity.visual_weight
    rest, nothing = 1 - visual, np.full_like(coarse, np.nan)
    phase = np.clip((coarse - visual * embed) / rest, 0, 1) if rest > 0 else nothing
    return Shortlist(steps, q, query.key.q, coarse, embed, phase)
