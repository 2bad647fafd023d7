"""Recall: the remembered steps most like the present one, among rollouts that were told something like it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efn_ros.bank.codes import Codes
from efn_ros.bank.errors import BankProjectionError
from efn_ros.bank.keys import mean_latent, unit
from efn_ros.bank.payload import before, successors
from efn_ros.bank.store import BankReader, StoredRollout
from efn_ros.types import Experience, Experiences, Outcome, PolicyStep, Recall


@dataclass(frozen=True)
class RecallConfig:
    """How steps are chosen.

    rollouts_n: n of (17). k, temperature: of (19). lambda_: of (18), 1 is similarity alone; beta: of its prior for
    short rollouts. visual, latent, proprio: weights of S_embed (32), S_act (37) and the kernel (35) over proprioception
    in the fused similarity (38), renormalised where a cue is absent; the visual key hardly changes with the arm's
    position, so most of the weight is on the others. proprio_sigma: of that kernel, in units of proprioception; None
    takes a third of the candidates' range, entry by entry.
    context: so many more of the candidates, drawn at random, follow the k: they tell a network how the robot moves
    here, whatever it does now; they are never drawn by (19). codes: recall also what each step saw, so encoded.
    argmax: the best instead of a draw. success_only: recall successes only. min_similarity: what is below is not
    recalled. confidence_floor: the similarity at which confidence is 0. Raises ValueError for a value out of range.
    """

    rollouts_n: int = 50
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
    success_only: bool = False
    min_similarity: float = 0.0
    confidence_floor: float = 0.5

    def __post_init__(self) -> None:
        sigma = 1.0 if self.proprio_sigma is None else self.proprio_sigma
        for name, valid, remedy in (
            ("rollouts_n", self.rollouts_n >= 1, "at least 1"),
            ("k", self.k >= 1, "at least 1"),
            ("context", self.context >= 0, "at least 0"),
            ("temperature", 0 < self.temperature < np.inf, "above 0"),
            ("lambda_", 0 <= self.lambda_ <= 1, "in [0, 1]"),
            ("beta", 0 <= self.beta < np.inf, "at least 0"),
            ("visual", 0 <= self.visual < np.inf, "at least 0"),
            ("latent", 0 <= self.latent < np.inf, "at least 0"),
            ("proprio", 0 <= self.proprio < np.inf, "at least 0"),
            ("proprio_sigma", np.all(np.asarray(sigma) > 0), "above 0"),
            ("min_similarity", 0 <= self.min_similarity <= 1, "in [0, 1]"),
            ("confidence_floor", 0 <= self.confidence_floor < 1, "in [0, 1)"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {remedy}")
        if self.visual + self.latent + self.proprio == 0:
            raise ValueError("visual, latent and proprio are all 0; at least one cue needs weight")


class _Candidates:
    """The candidate set of one episode: every recallable step of the chosen rollouts, in the order they were stored."""

    def __init__(self, rollouts: list[StoredRollout], config: RecallConfig) -> None:
        self.rollouts = rollouts
        self.successors = [successors(rollout.arrays.steps) for rollout in rollouts]
        self.before = [before(rollout.arrays) for rollout in rollouts]
        kept = [np.flatnonzero(rollout.arrays.recallable) for rollout in rollouts]
        self.row = np.concatenate(kept)
        self.rollout = np.repeat(np.arange(len(rollouts)), [len(rows) for rows in kept])

        self.features = np.concatenate([r.features[rows] for r, rows in zip(rollouts, kept, strict=True)])
        self.proprio = np.concatenate([r.arrays.proprio[rows] for r, rows in zip(rollouts, kept, strict=True)])
        first = rollouts[0].arrays
        self.key_shape, self.latent_shape = first.key.q.shape[1:], first.latent.shape[1:]
        self.proprio_shape = first.proprio.shape[1:]

        present = (True, first.latent.size > 0, first.proprio.size > 0)
        cues = np.where(present, (config.visual, config.latent, config.proprio), 0)
        if not cues.any():
            raise ValueError("the bank holds none of the cues that have weight; give visual, latent or proprio some")
        self.visual_weight, self.latent_weight, self.proprio_weight = (cues / cues.sum()).astype(np.float32)
        self.half_precision = self._half_precision(config)

        lengths = np.array([rollout.record.length for rollout in rollouts], np.float32)
        self.prior = np.exp(-np.float32(config.beta) * lengths / lengths.mean())[self.rollout]  # g of (18)

    def _half_precision(self, config: RecallConfig) -> np.ndarray:
        """1 / (2 sigma^2) of (35) for each entry of proprioception; one that never changes tells nothing and gets 0."""
        if config.proprio_sigma is not None:
            sigma = np.broadcast_to(np.asarray(config.proprio_sigma, np.float32), self.proprio_shape)
        else:
            sigma = np.ptp(self.proprio, axis=0) / 3
        return np.where(sigma > 1e-6, 0.5 / np.maximum(sigma, 1e-6) ** 2, 0).astype(np.float32)

    def similarity(self, query: PolicyStep) -> np.ndarray:
        """Fused similarity (38) of every candidate, float32 (C,) in [0, 1]."""
        for name, shape, expected in (
            ("key", query.key.q.shape, self.key_shape),
            ("latent", query.latent.shape, self.latent_shape),
            ("proprio", query.proprio.shape, self.proprio_shape),
        ):
            if tuple(shape) != expected:
                raise ValueError(f"{name} of the query has shape {tuple(shape)}; the bank holds {expected}")
        key, latent = unit(query.key.dequantise()), mean_latent(query.latent)
        vector = np.concatenate([self.visual_weight * key, self.latent_weight * latent])
        # Not BLAS: its result for a row depends on where the row is and how many threads there are.
        cosines = np.einsum("cd,d->c", self.features, vector)
        similarity = (self.visual_weight + self.latent_weight + cosines) / 2
        if self.proprio_weight:
            difference = self.proprio - np.asarray(query.proprio, np.float32)
            kernel = np.exp(-np.einsum("cp,cp,p->c", difference, difference, self.half_precision))
            similarity += self.proprio_weight * kernel
        return similarity.clip(0, 1)


class Retriever:
    """Recalls out of what the bank held when the episode began."""

    def __init__(self, reader: BankReader, config: RecallConfig | None = None) -> None:
        self.reader, self._config = reader, config or RecallConfig()
        self._episode_id: str | None = None
        self._candidates: _Candidates | None = None
        self._revision, self._projection, self._reason = 0, "", ""
        self._encoded: dict[str, np.ndarray] = {}

    def begin(self, episode_id: str, instruction_embedding: np.ndarray, policy: str = "") -> None:
        """Take a snapshot and choose the candidates, (17): the steps of the n rollouts with the likest instruction.

        instruction_embedding: (E,). policy: fingerprint; rollouts of another one are left out, as their tokens cannot
        be compared; empty: take all. Among equally like rollouts the newest are taken. A second call for the same
        episode does nothing. Raises the errors of `BankReader.snapshot`, and ValueError for an embedding of another
        size than the bank's.
        """
        if episode_id == self._episode_id:
            return
        config, snapshot = self._config, self.reader.snapshot()
        rollouts = [rollout for rollout in snapshot.rollouts if rollout.record.recallable]
        self._reason = "" if rollouts else "the bank is empty"
        if rollouts and policy:
            rollouts = [rollout for rollout in rollouts if rollout.record.policy == policy]
            self._reason = "" if rollouts else "the bank holds nothing of this policy"
        if rollouts and config.success_only:
            rollouts = [rollout for rollout in rollouts if rollout.record.outcome == Outcome.SUCCESS]
            self._reason = "" if rollouts else "the bank holds no success"
        self._candidates = None
        if rollouts:
            stored = unit(np.stack([rollout.instruction_embedding for rollout in rollouts]))
            wanted = unit(np.asarray(instruction_embedding))
            if wanted.shape != stored.shape[1:]:
                raise ValueError(
                    f"the instruction embedding has shape {wanted.shape}; the bank holds {stored.shape[1:]}"
                )
            # Rounded, so that the same instruction ties whatever the last bit of its embedding.
            cosines = np.round(np.einsum("rd,d->r", stored, wanted), 5)
            chosen = np.lexsort((-np.arange(len(rollouts)), -cosines))[: config.rollouts_n]
            chosen = [rollouts[i] for i in np.sort(chosen)]
            self._candidates = _Candidates(chosen, config)
            self._encoded = {r.record.id: self._encoded[r.record.id] for r in chosen if r.record.id in self._encoded}
        self._revision, self._projection, self._episode_id = snapshot.revision, snapshot.projection, episode_id

    def recall(self, query: PolicyStep) -> Recall:
        """The k best steps by (18) and the one drawn by (19); the same (seed, step) draws the same in any process.

        Begins the episode of the query if it is a new one. Candidates with equal scores rank in the order they were
        stored. Confidence is the mean over (19) of how far the similarities lie between `confidence_floor` (0) and 1
        (1), times the share of the k that come from successes. Raises ValueError for a query of other sizes than the
        bank's, BankProjectionError for one whose key is of another projection.
        """
        context, config = query.context, self._config
        self.begin(context.episode_id, query.instruction_embedding, query.policy)
        candidates = self._candidates
        if candidates is None:
            return Recall(revision=self._revision, reason=self._reason)
        if query.projection not in ("", self._projection):
            raise BankProjectionError(
                f"the query was made with projection {query.projection}, the bank with {self._projection}; "
                "give both the same sizes and seed"
            )
        similarity = candidates.similarity(query)
        count = len(similarity)
        eligible = np.flatnonzero(similarity >= config.min_similarity)
        if not len(eligible):
            best = similarity.max()
            reason = f"nothing is similar enough: {best:.3f} at best, at least {config.min_similarity:g} is asked for"
            return Recall(candidates=count, revision=self._revision, reason=reason)

        lambda_ = np.float32(config.lambda_)
        score = lambda_ * similarity + (1 - lambda_) * candidates.prior
        top = eligible[_best(score[eligible], config.k)]
        probability = _softmax(score[top].astype(np.float64) / config.temperature)
        drawn = 0
        # Seeds are unsigned on every wire; what is negative here is the same 64 bits.
        rng = np.random.default_rng([context.seed % 2**64, context.step])
        if config.argmax:
            probability = np.eye(1, len(top))[0]
        else:
            drawn = min(int(np.searchsorted(np.cumsum(probability), rng.random(), side="right")), len(top) - 1)

        steps = tuple(self._experience(i, similarity[i], score[i], p) for i, p in zip(top, probability, strict=True))
        drawn_at_random = rng.choice(count, min(config.context, count), replace=False) if config.context else ()
        above_floor = np.clip((similarity[top] - config.confidence_floor) / (1 - config.confidence_floor), 0, 1)
        successes = np.mean([step.outcome == Outcome.SUCCESS for step in steps])
        rollout, row = candidates.rollout[top[drawn]], candidates.row[top[drawn]]
        after = candidates.successors[rollout][row]
        sketch, successor = candidates.rollouts[rollout].sketches(int(row), int(after))
        return Recall(
            steps=Experiences.of(*steps, *(self._experience(i, similarity[i], score[i], 0.0) for i in drawn_at_random)),
            drawn=drawn,
            sketch=sketch,
            successor=successor,
            confidence=float(probability @ above_floor * successes),
            candidates=count,
            revision=self._revision,
            codes=config.codes.identity if config.codes else "",
        )

    def similarities(self, query: PolicyStep) -> np.ndarray:
        """Fused similarity (38) of every candidate, float32 (C,), by rollout and step in the order they were stored."""
        self.begin(query.context.episode_id, query.instruction_embedding, query.policy)
        return self._candidates.similarity(query) if self._candidates else np.zeros(0, np.float32)

    def _experience(self, candidate: int, similarity: float, score: float, probability: float) -> Experience:
        candidates = self._candidates
        stored, row = candidates.rollouts[candidates.rollout[candidate]], candidates.row[candidate]
        record, arrays = stored.record, stored.arrays
        executed_before, proprio_before = candidates.before[candidates.rollout[candidate]]
        return Experience(
            rollout_id=record.id,
            step=int(arrays.steps[row]),
            instruction=record.instruction,
            outcome=record.outcome,
            rollout_length=record.length,
            executed=arrays.executed[row],
            base=arrays.base[row],
            proprio=arrays.proprio[row],
            proprio_next=arrays.proprio[candidates.successors[candidates.rollout[candidate]][row]],
            executed_before=executed_before[row],
            proprio_before=proprio_before[row],
            latent=arrays.latent[row].sum(axis=0) / max(arrays.latent.shape[1], 1),
            similarity=float(similarity),
            score=float(score),
            probability=float(probability),
            **({"code": self._codes(stored)[row]} if self._config.codes else {}),
        )

    def _codes(self, rollout: StoredRollout) -> np.ndarray:
        """Of all steps of a rollout, (N, C): read and encoded once, and kept while it is among the candidates."""
        if rollout.record.id not in self._encoded:
            sketches = rollout.sketches(*range(len(rollout.arrays.steps)))
            self._encoded[rollout.record.id] = self._config.codes(sketches)
        return self._encoded[rollout.record.id]


def _best(score: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, largest first; among equal ones the smaller index first."""
    if len(score) > k:
        kth = np.partition(score, len(score) - k)[len(score) - k]
        above, level = np.flatnonzero(score > kth), np.flatnonzero(score == kth)
        chosen = np.concatenate([above, level[: k - len(above)]])
    else:
        chosen = np.arange(len(score))
    return chosen[np.lexsort((chosen, -score[chosen]))]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
