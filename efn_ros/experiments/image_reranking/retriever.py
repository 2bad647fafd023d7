# SPDX-License-Identifier: MIT
"""A retriever that ranks a shortlist again by image similarity under the instruction: appendix D.11."""

from __future__ import annotations

import numpy as np

from efn_ros.bank.store.snapshot import SnapshotSource
from efn_ros.experiments.image_reranking.reranker import Reranker
from efn_ros.experiments.image_reranking.shortlist import make_shortlist
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.retrieval.candidates import Candidates
from efn_ros.retrieval.ranking import score, top_k
from efn_ros.types import Observation, RetrievalQuery, StepContext


class ImageRerankingRetriever(Retriever):
    """Recalls the best of a shortlist by images; without the image of a decision it ranks as `Retriever` does.

    Attributes:
        without_image: Decisions that were ranked without their image.
    """

    def __init__(self, source: SnapshotSource, config: RetrievalConfig, reranker: Reranker) -> None:
        """Rank with a reranker.

        Raises:
            ValueError: More steps are recalled than the shortlist holds.
        """
        size = reranker.config.shortlist
        if config.k > size:
            raise ValueError(f"k is {config.k}; it must be at most the shortlist of the reranker, {size}")
        super().__init__(source, config)
        self._reranker, self.without_image = reranker, 0

    def observe(self, observation: Observation) -> None:
        """Compute the features of a decision's image, for its recall.

        Raises:
            ValueError: The observation has no image of the camera.
        """
        if observation.context.correct:
            self._reranker.observe(observation)

    def needs_image(self, context: StepContext) -> bool:
        """Return whether a decision has not been observed."""
        return not self._reranker.has_observed(context)

    def rank(
        self, query: RetrievalQuery, candidates: Candidates, similarity: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarity and score (18) with images, of the shortlist alone."""
        similarity, scores = super().rank(query, candidates, similarity)
        short = top_k(scores, self._reranker.config.shortlist)
        next_ = self.next_reference(query.context.step) if self.config.reference_margin else -1
        if next_ >= 0 and not (short == next_).any():
            short = np.append(short[:-1], next_)
        reranked = self._reranker(query.context, make_shortlist(candidates, short, similarity, query))
        if reranked is None:
            self.without_image += 1
            return similarity, scores
        similarity, scores = similarity.copy(), np.full_like(scores, -np.inf)
        similarity[short] = reranked
        scores[short] = score(reranked, candidates.prior[short], self.config.lambda_)
        return similarity, scores
