"""A shortlist, ordered anew by what images show under the instruction: D.11."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor, ImageFeatures, compare
from efn_ros.experiments.image_reranking.shortlist import Shortlist
from efn_ros.experiments.image_reranking.similarity import additive, duplicates, gated
from efn_ros.experiments.image_reranking.store import ImageFeatureStore
from efn_ros.types import Observation, StepContext

ADDITIVE, GATED = "additive", "gated"
MAX_OBSERVED = 8  # of decisions that may be recalled for yet


@dataclass(frozen=True)
class RerankConfig:
    """shortlist: candidates that are looked at; no other is recalled. appearance, text, relation: weights of (36).
    fusion: ADDITIVE (38) or GATED (39). weight: of S_image in (38), where that of all coarse cues together is 1. gate,
    phase: alpha and beta of (39). Raises ValueError for a value out of range."""

    shortlist: int = 32
    appearance: float = 0.4
    text: float = 0.3
    relation: float = 0.3
    fusion: str = ADDITIVE
    weight: float = 0.5
    gate: float = 0.5
    phase: float = 0.1

    def __post_init__(self) -> None:
        for name, valid, remedy in (
            ("shortlist", self.shortlist >= 1, "at least 1"),
            ("fusion", self.fusion in (ADDITIVE, GATED), f"{ADDITIVE!r} or {GATED!r}"),
            ("weight", 0 < self.weight < np.inf, "above 0"),
            ("gate", 0 <= self.gate <= 1, "in [0, 1]"),
            ("phase", 0 <= self.phase < np.inf, "at least 0"),
        ):
            if not valid:
                raise ValueError(f"{name} of the rerank is {getattr(self, name)!r}; it must be {remedy}")
        if min(self.terms) < 0 or not sum(self.terms) > 0:
            raise ValueError(f"appearance, text and relation are {self.terms}; none may be negative, nor all 0")

    @property
    def terms(self) -> tuple[float, float, float]:
        """(alpha_c, alpha_t, alpha_r)."""
        return self.appearance, self.text, self.relation


class Reranker:
    """Looks at the present image, and at those of a shortlist."""

    def __init__(self, extractor: ImageFeatureExtractor, config: RerankConfig | None = None) -> None:
        self.config = config or RerankConfig()
        self._extractor, self._store = extractor, ImageFeatureStore(extractor)
        self.size = self.config.shortlist
        self._present: OrderedDict[tuple[str, int], ImageFeatures] = OrderedDict()

    def observe(self, observation: Observation) -> None:
        """Keep what the image of a decision shows, for its recall. Raises ValueError for one without the camera."""
        context = observation.context
        self._present[context.episode_id, context.step] = self._extractor(observation)
        while len(self._present) > MAX_OBSERVED:
            self._present.popitem(last=False)

    def has_observed(self, context: StepContext) -> bool:
        """Whether the image of a decision has been looked at."""
        return (context.episode_id, context.step) in self._present

    def __call__(self, context: StepContext, shortlist: Shortlist) -> np.ndarray | None:
        """Return the similarity with images, float32 (N,); None where this decision has no image.

        Raises:
            ValueError: for a rollout without the camera; else as `ImageFeatureStore`.
        """
        present = self._present.get((context.episode_id, context.step))
        if present is None:
            return None
        try:
            remembered = self._store(shortlist.steps, context.instruction)
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]}; name a camera that all rollouts have in experiment_options.camera"
            ) from error
        image = duplicates(compare(remembered, present, self.config.terms), shortlist.q, shortlist.present)
        if self.config.fusion == GATED:
            return gated(shortlist.embed, image, shortlist.phase, alpha=self.config.gate, beta=self.config.phase)
        nothing = np.full_like(image, np.nan)
        return additive(shortlist.coarse, image, nothing, (1.0, self.config.weight, 0.0))
