"""The best candidates of a recall, for whoever looks at their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.types import Observation, StepContext


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


class Rerank(Protocol):
    """Orders a shortlist anew, as `Reranker` does. size: most candidates that it looks at."""

    size: int

    def look(self, observation: Observation) -> None:
        """Keep what is seen at a decision, for its recall. Raises ValueError for what it cannot look at."""

    def has_seen(self, context: StepContext) -> bool:
        """Whether that was done for a decision."""

    def __call__(self, context: StepContext, shortlist: Shortlist) -> np.ndarray | None:
        """Similarity, float32 (N,); None where nothing was seen of this decision. Raises BankCorruptionError, OSError
        and ValueError."""
