# SPDX-License-Identifier: MIT
"""A shortlist of candidates, ranked again by image similarity under the instruction: appendix D.11."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from efn_ros.experiments.image_reranking.feature_cache import ImageFeatureCache
from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor, ImageFeatures, compare
from efn_ros.experiments.image_reranking.shortlist import Shortlist
from efn_ros.experiments.image_reranking.similarity import convex_combination, gated_fusion, set_duplicates
from efn_ros.types import Observation, StepContext

ADDITIVE, GATED = "additive", "gated"
MAX_OBSERVED = 8  # decisions whose recall may still come


@dataclass(frozen=True)
class RerankConfig:
    """Settings of the reranker.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    shortlist: int = 32  # candidates that are compared; no other is recalled
    appearance: float = 0.4  # alpha_c of (36)
    text: float = 0.3  # alpha_t of (36)
    relation: float = 0.3  # alpha_r of (36)
    fusion: str = ADDITIVE  # ADDITIVE (38) or GATED (39)
    weight: float = 0.5  # of S_image in (38), where all coarse cues together have 1
    gate: float = 0.5  # alpha of (39)
    phase: float = 0.1  # beta of (39)

    def __post_init__(self) -> None:
        for name, valid, remedy in (
            ("shortlist", self.shortlist >= 1, "at least 1"),
            ("fusion", self.fusion in (ADDITIVE, GATED), f"{ADDITIVE!r} or {GATED!r}"),
            ("weight", 0 < self.weight < np.inf, "above 0"),
            ("gate", 0 <= self.gate <= 1, "in [0, 1]"),
            ("phase", 0 <= self.phase < np.inf, "at least 0"),
        ):
            if not valid:
                raise ValueError(f"{name} of the reranker is {getattr(self, name)!r}; it must be {remedy}")
        if min(self.terms) < 0 or not sum(self.terms) > 0:
            raise ValueError(f"appearance, text and relation are {self.terms}; none may be negative, nor all 0")

    @property
    def terms(self) -> tuple[float, float, float]:
        """(alpha_c, alpha_t, alpha_r)."""
        return self.appearance, self.text, self.relation


class Reranker:
    """Compares the present image with those of a shortlist."""

    def __init__(self, extractor: ImageFeatureExtractor, config: RerankConfig | None = None) -> None:
        self.config = config or RerankConfig()
        self._extractor, self._stored = extractor, ImageFeatureCache(extractor)
        self._present: OrderedDict[tuple[str, int], ImageFeatures] = OrderedDict()

    def observe(self, observation: Observation) -> None:
        """Compute the features of a decision's image, for its recall.

        Raises:
            ValueError: The observation has no image of the camera.
        """
        context = observation.context
        self._present[context.episode_id, context.step] = self._extractor(observation)
        while len(self._present) > MAX_OBSERVED:
            self._present.popitem(last=False)

    def has_observed(self, context: StepContext) -> bool:
        """Return whether the features of a decision's image are known."""
        return (context.episode_id, context.step) in self._present

    def __call__(self, context: StepContext, shortlist: Shortlist) -> np.ndarray | None:
        """Return the similarity with images, float32 (N,); None where the image of the decision is unknown.

        Raises:
            BankCorruptionError: As of `ImageFeatureCache`.
            OSError: Likewise.
            ValueError: A rollout has no image of the camera.
        """
        present = self._present.get((context.episode_id, context.step))
        if present is None:
            return None
        try:
            stored = self._stored(shortlist.steps, context.instruction)
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]}; name a camera that all rollouts have in experiment_options.camera"
            ) from error
        image = set_duplicates(compare(stored, present, self.config.terms), shortlist.q, shortlist.present)
        if self.config.fusion == GATED:
            return gated_fusion(shortlist.embed, image, shortlist.phase, alpha=self.config.gate, beta=self.config.phase)
        return convex_combination((shortlist.coarse, image), (1.0, self.config.weight))
