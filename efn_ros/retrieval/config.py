# SPDX-License-Identifier: MIT
"""Settings of retrieval: which rollouts and cues are compared, how many steps are recalled, and which is selected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efn_ros.features.codes import SketchEncoder
from efn_ros.retrieval.similarity import CueWeights

SEARCHES = INSTRUCTION, EVERYTHING = "instruction", "everything"


@dataclass(frozen=True)
class RetrievalConfig:
    """Settings of retrieval.

    With `search` "instruction", the rollouts whose steps are compared are chosen by their instruction, once an episode
    (17). With "everything", they are chosen by visual features, at every decision: the rollouts of the `hits` steps of
    the whole bank with the most similar keys (32), and the reference rollout.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    search: str = INSTRUCTION  # how rollouts are chosen: INSTRUCTION or EVERYTHING
    hits: int = 256  # most similar steps of the bank, for search "everything"
    max_rollouts: int = 50  # n of (17)
    max_steps: int = 100_000  # of those rollouts; the least similar ones beyond are left out, never the first
    k: int = 16  # steps recalled, (19)
    temperature: float = 0.02  # tau of (19)
    lambda_: float = 0.9  # of (18); 1 is similarity alone
    beta: float = 1.0  # of (18), of its prior for short rollouts
    weights: CueWeights = CueWeights()  # of the cues in the fused similarity, (38)
    proprio_sigma: float | tuple[float, ...] | None = None  # of the kernel (35), see `FusedSimilarity`
    random_steps: int = 0  # more steps drawn at random, from which a network learns the robot's motion; never selected
    codes: SketchEncoder | None = None  # encodes the sketches of recalled steps; None: they have no code
    argmax: bool = False  # select the best step instead of sampling one
    reference_margin: float = 0.0  # above 0: continue along the selected rollout while its score is at most this lower
    success_only: bool = False  # recall successful rollouts only
    min_similarity: float = 0.0  # steps below are not recalled
    confidence_floor: float = 0.5  # similarity at which confidence is 0
    success_model_rollouts: int = 1000  # newest rollouts that the success probability is fitted to; 0: it is not given

    def __post_init__(self) -> None:
        sigma = 1.0 if self.proprio_sigma is None else self.proprio_sigma
        cues = (self.weights.visual, self.weights.latent, self.weights.proprio)
        for name, valid, remedy in (
            ("search", self.search in SEARCHES, " or ".join(SEARCHES)),
            ("hits", self.hits >= 1, "at least 1"),
            ("max_rollouts", self.max_rollouts >= 1, "at least 1"),
            ("max_steps", self.max_steps >= 1, "at least 1"),
            ("k", self.k >= 1, "at least 1"),
            ("random_steps", self.random_steps >= 0, "at least 0"),
            ("temperature", 0 < self.temperature < np.inf, "above 0"),
            ("lambda_", 0 <= self.lambda_ <= 1, "in [0, 1]"),
            ("beta", 0 <= self.beta < np.inf, "at least 0"),
            ("weights", all(0 <= cue < np.inf for cue in cues) and any(cues), "at least 0 each, and not all 0"),
            ("proprio_sigma", np.all(np.asarray(sigma) > 0), "above 0"),
            ("reference_margin", 0 <= self.reference_margin <= 1, "in [0, 1]"),
            ("min_similarity", 0 <= self.min_similarity <= 1, "in [0, 1]"),
            ("confidence_floor", 0 <= self.confidence_floor < 1, "in [0, 1)"),
            ("success_model_rollouts", self.success_model_rollouts >= 0, "at least 0"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {remedy}")
