"""How remembered steps are retrieved: which rollouts, which cues, how many, and which one is followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efn_ros.experiments.image_reranking.shortlist import Rerank
from efn_ros.features.codes import Codes

SEARCHES = INSTRUCTION, EVERYTHING = "instruction", "everything"


@dataclass(frozen=True)
class RecallConfig:
    """How steps are chosen.

    search: how the rollouts are chosen whose steps are compared, all of them. "instruction": by what was told, once an
    episode (17). "everything": by what is seen, at every decision: those in which the `hits` steps of the whole bank
    with the likest keys (32) lie, in the order of their best one, and that of the reference that is followed.
    rollouts_n: so many at most, n of (17). steps_n: with so many steps at most; beyond that the rollouts that are least
    like are left out, but never the likest. k, temperature: of (19). lambda_: of (18), 1 is similarity alone; beta: of
    its prior for short rollouts. visual, latent, proprio: weights of S_embed (32), S_act (37) and the kernel (35) over
    proprioception in the fused similarity (38), renormalised where a cue is absent; the visual key hardly changes with
    the arm's position, so most of the weight is on the others. proprio_sigma: of that kernel, in units of
    proprioception; None takes a third of the candidates' range, entry by entry.
    context: so many more of the candidates, drawn at random, follow the k: they tell a network how the robot moves
    here, whatever it does now; they are never drawn by (19). codes: recall also what each step saw, so encoded.
    argmax: the best instead of a draw. follow: 0 draws anew at every decision; else the reference is the step after the
    one before, in the same rollout, as long as its score is at most this much below the best one's: then, at the end of
    the rollout and before a blank step it is drawn anew, so that what is followed does not jump from rollout to rollout
    but never strays far from what is like the present. success_only: recall successes only. min_similarity: what is
    below is not recalled. confidence_floor: the similarity at which confidence is 0. outcomes: newest rollouts that
    the chance of success is learned from; 0: none is said. rerank: orders the best anew by what images show; then k is
    at most its shortlist. Raises ValueError for a value out of range.
    """

    search: str = INSTRUCTION
    hits: int = 256
    rollouts_n: int = 50
    steps_n: int = 100_000
    k: int = 16
    temperature: float = 0.02
    lambda_: float = 0.9
    beta: float = 1.0
    visual: float = 0.2
    latent: float = 0.4
    proprio: float = 0.4
    proprio_sigma: float | tuple[float, ...] | None = None
    context: int = 0
    codes: Codes | None = None
    argmax: bool = False
    follow: float = 0.0
    success_only: bool = False
    min_similarity: float = 0.0
    confidence_floor: float = 0.5
    outcomes: int = 1000
    rerank: Rerank | None = None

    def __post_init__(self) -> None:
        sigma = 1.0 if self.proprio_sigma is None else self.proprio_sigma
        for name, valid, remedy in (
            ("search", self.search in SEARCHES, " or ".join(SEARCHES)),
            ("hits", self.hits >= 1, "at least 1"),
            ("rollouts_n", self.rollouts_n >= 1, "at least 1"),
            ("steps_n", self.steps_n >= 1, "at least 1"),
            ("k", self.k >= 1, "at least 1"),
            ("context", self.context >= 0, "at least 0"),
            ("temperature", 0 < self.temperature < np.inf, "above 0"),
            ("lambda_", 0 <= self.lambda_ <= 1, "in [0, 1]"),
            ("beta", 0 <= self.beta < np.inf, "at least 0"),
            ("visual", 0 <= self.visual < np.inf, "at least 0"),
            ("latent", 0 <= self.latent < np.inf, "at least 0"),
            ("proprio", 0 <= self.proprio < np.inf, "at least 0"),
            ("proprio_sigma", np.all(np.asarray(sigma) > 0), "above 0"),
            ("follow", 0 <= self.follow <= 1, "in [0, 1]"),
            ("min_similarity", 0 <= self.min_similarity <= 1, "in [0, 1]"),
            ("confidence_floor", 0 <= self.confidence_floor < 1, "in [0, 1)"),
            ("outcomes", self.outcomes >= 0, "at least 0"),
            ("k", self.rerank is None or self.k <= self.rerank.size, "at most the shortlist of the rerank"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {remedy}")
        if self.visual + self.latent + self.proprio == 0:
            raise ValueError("visual, latent and proprio are all 0; at least one cue needs weight")
