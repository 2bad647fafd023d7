"""Recall: the remembered steps most like the present one, among rollouts that were told something like it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numkong
import numpy as np

from efn_ros.bank.chance import Followed, Outcomes
from efn_ros.bank.codes import Codes
from efn_ros.bank.contents import Contents
from efn_ros.bank.errors import BankCorruptionError, BankProjectionError
from efn_ros.bank.index import StepIndex
from efn_ros.bank.keys import mean_latent, unit
from efn_ros.bank.payload import PayloadFile, Steps
from efn_ros.bank.reader import BankReader, Snapshot, StoredRollout
from efn_ros.bank.shortlist import RememberedStep, Rerank, Shortlist
from efn_ros.bank.sketches import quantise
from efn_ros.types import Experiences, Observation, Outcome, PolicyStep, Quantised, Recall, StepContext

SEARCHES = INSTRUCTION, EVERYTHING = "instruction", "everything"
DECIMALS = 5  # of an instruction's cosine: the same one ties whatever the last bit of its embedding


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


class _Candidates:
    """All steps of the chosen rollouts side by side, in the order they were stored, and of those that are recallable, C
    of them, what is compared."""

    def __init__(
        self, rollouts: list[StoredRollout], steps: list[Steps], payloads: list[PayloadFile], config: RecallConfig
    ) -> None:
        self.rollouts, self.records = rollouts, [rollout.record for rollout in rollouts]
        self.payloads = payloads  # open, whatever is forgotten while the episode runs
        names = [name for name in Steps.__dataclass_fields__ if name != "latent"]  # large, and only of those recalled
        column = {name: np.concatenate([getattr(s, name) for s in steps]) for name in names}
        self.latents, self.keys, self.key_norms = zip(*((s.latent, s.key, s.key_norm) for s in steps), strict=True)
        counts = [len(s.steps) for s in steps]
        self.rollout, self.first = np.repeat(np.arange(len(rollouts)), counts), np.cumsum([0, *counts])[:-1]
        follows = (np.diff(column["steps"]) == 1) & (np.diff(self.rollout) == 0)
        row = np.arange(len(self.rollout))
        self.after, self.before = row + np.append(follows, False), row - np.insert(follows, 0, False)
        self.row = np.flatnonzero(column["recallable"])
        self.column = {name: column[name] for name in ("steps", "base", "executed", "proprio")}

        if len(self.row) < len(row):
            column = {name: values[self.row] for name, values in column.items()}
        key, latent, proprio = (column[name] for name in ("key", "latent_key", "proprio"))
        self.key_size, self.latent_size, self.proprio_size = key.shape[1], latent.shape[1], proprio.shape[1]
        present = (True, self.latent_size > 0, self.proprio_size > 0)
        cues = np.where(present, (config.visual, config.latent, config.proprio), 0)
        if not cues.any():
            raise ValueError("the bank holds none of the cues that have weight; give visual, latent or proprio some")
        visual, latent_weight, self.proprio_weight = (cues / cues.sum()).astype(np.float32)
        self.visual_weight = visual
        # A cosine, at most 1, says (1 + cosine) / 2.
        self.always = (visual + latent_weight) / 2
        self.cosines = {
            name: (numkong.dots_pack(q, "int8"), weight / 2 * column[norm])
            for name, q, weight, norm in (
                ("key", key, visual, "key_norm"),
                ("latent", latent, latent_weight, "latent_norm"),
            )
            if weight
        }
        self.sharpness = np.sqrt(self._half_precision(proprio, config))
        self.sharpened = np.ascontiguousarray((proprio * self.sharpness).T)

        lengths = np.array([rollout.record.length for rollout in rollouts], np.float32)
        self.prior = np.exp(-np.float32(config.beta) * lengths / lengths.mean())[self.rollout[self.row]]  # g of (18)
        self.outcome = np.array([rollout.record.outcome for rollout in rollouts], np.uint8)
        self.length = np.array([rollout.record.length for rollout in rollouts], np.uint32)

    @staticmethod
    def _half_precision(proprio: np.ndarray, config: RecallConfig) -> np.ndarray:
        """1 / (2 sigma^2) of (35) for each entry of proprioception; one that never changes tells nothing and gets 0."""
        if config.proprio_sigma is not None:
            sigma = np.broadcast_to(np.asarray(config.proprio_sigma, np.float32), proprio.shape[1:])
        else:
            sigma = np.ptp(proprio, axis=0) / 3
        return np.where(sigma > 1e-6, 0.5 / np.maximum(sigma, 1e-6) ** 2, 0).astype(np.float32)

    def similarity(self, query: PolicyStep) -> np.ndarray:
        """Fused similarity (38) of every candidate, float32 (C,) in [0, 1].

        Cosines are taken in whole numbers, over int8, and sums in the order of a row: so the result does not depend on
        where a candidate lies, on the number of threads or on the processor's instructions.
        """
        asked = {"key": query.key.q, "latent": quantise(mean_latent(query.latent)).q}
        for name, found, expected in (
            ("key", asked["key"], (self.key_size,)),
            ("latent", asked["latent"], (self.latent_size,)),
            ("proprio", query.proprio, (self.proprio_size,)),
        ):
            if np.shape(found) != expected:
                raise ValueError(f"{name} of the query has shape {np.shape(found)}; the bank holds {expected}")
        similarity = np.full(len(self.row), self.always, np.float32)
        for name, (packed, weight) in self.cosines.items():
            q = np.ascontiguousarray(asked[name])
            products = np.asarray(numkong.dots_packed(q[None], packed))[0]
            norm = math.sqrt(max(int(numkong.dot(q, q)), 1))
            similarity += np.multiply(products, weight * np.float32(1 / norm), dtype=np.float32)
        if self.proprio_weight:
            distance = np.zeros_like(similarity)
            for column, value in zip(
                self.sharpened, self.sharpness * np.asarray(query.proprio, np.float32), strict=True
            ):
                difference = column - value
                distance += np.multiply(difference, difference, out=difference)
            similarity += self.proprio_weight * np.exp(np.negative(distance, out=distance), out=distance)
        return np.clip(similarity, 0, 1, out=similarity)

    def experiences(
        self, chosen: np.ndarray, similarity: np.ndarray, score: np.ndarray, probability: np.ndarray, codes: np.ndarray
    ) -> Experiences:
        """Of the candidates `chosen`, (M,). similarity: of all candidates. score, probability: (M,). codes: (M, C)."""
        row, column = self.row[chosen], self.column
        before, after, rollout = self.before[row], self.after[row], self.rollout[row]
        records = [self.records[i] for i in rollout.tolist()]
        return Experiences(
            rollout_id=tuple([record.id for record in records]),
            step=column["steps"][row].astype(np.uint32),
            instruction=tuple([record.instruction for record in records]),
            outcome=self.outcome[rollout],
            rollout_length=self.length[rollout],
            executed=column["executed"][row],
            base=column["base"][row],
            proprio=column["proprio"][row],
            proprio_next=column["proprio"][after],
            executed_before=column["executed"][before] * (before < row)[:, None, None],
            proprio_before=column["proprio"][before],
            latent=self._latents(rollout, row - self.first[rollout]),
            similarity=similarity[chosen].astype(np.float64),
            score=score.astype(np.float64),
            probability=probability,
            code=codes,
        )

    def _latents(self, rollout: np.ndarray, row: np.ndarray) -> np.ndarray:
        """float32 (M, dz), row by row: to hold them all side by side would take longer than an episode asks for."""
        latent = np.empty((len(row), self.latents[0].shape[1]), np.float32)
        for i, (of, at) in enumerate(zip(rollout.tolist(), row.tolist(), strict=True)):
            latent[i] = self.latents[of][at]
        return latent

    def shortlist(self, chosen: np.ndarray, similarity: np.ndarray, query: PolicyStep) -> Shortlist:
        """Of the candidates `chosen`, (M,), what is looked at. similarity: of all candidates."""
        row = self.row[chosen]
        rollout, place = self.rollout[row], row - self.first[self.rollout[row]]
        steps = [
            RememberedStep(self.rollouts[of], self.payloads[of], at, proprio)
            for of, at, proprio in zip(rollout.tolist(), place.tolist(), self.column["proprio"][row], strict=True)
        ]
        q = np.stack([self.keys[of][at] for of, at in zip(rollout, place, strict=True)])
        norm = np.array([self.key_norms[of][at] for of, at in zip(rollout, place, strict=True)])
        products = np.einsum("nd,d->n", q, query.key.q, dtype=np.int64)
        length = math.sqrt(max(int(np.dot(query.key.q.astype(np.int64), query.key.q)), 1))
        coarse, embed = similarity[chosen], ((1 + products * norm / length) / 2).astype(np.float32)
        rest, nothing = 1 - self.visual_weight, np.full_like(coarse, np.nan)
        phase = np.clip((coarse - self.visual_weight * embed) / rest, 0, 1) if rest > 0 else nothing
        return Shortlist(steps, q, query.key.q, coarse, embed, phase)

    def next(self, candidate: int) -> int:
        """The candidate of the decision after this one's; -1 where there is none, or it is blank."""
        row = self.row[candidate]
        after = self.after[row]
        place = int(np.searchsorted(self.row, after))
        return place if after != row and place < len(self.row) and self.row[place] == after else -1

    def place(self, candidate: int) -> tuple[StoredRollout, int]:
        """The rollout of a candidate, and its row in it."""
        row = self.row[candidate]
        rollout = self.rollout[row]
        return self.rollouts[rollout], int(row - self.first[rollout])

    def find(self, rollout: StoredRollout, row: int) -> int:
        """The candidate that is this recallable row of a rollout; -1 where the rollout is not among these."""
        if rollout not in self.rollouts:
            return -1
        return int(np.searchsorted(self.row, self.first[self.rollouts.index(rollout)] + row))

    def tokens(self, candidate: int) -> list[Quantised]:
        """Sketches of a candidate and of the decision after it. Raises BankCorruptionError."""
        row = self.row[candidate]
        rollout = self.rollout[row]
        return self.sketches(rollout, [int(r - self.first[rollout]) for r in (row, self.after[row])])

    def sketches(self, rollout: int, rows: Sequence[int]) -> list[Quantised]:
        """Of some decisions of a chosen rollout. Raises BankCorruptionError."""
        try:
            return self.payloads[rollout].sketches(rows)
        except ValueError as error:
            stored = self.rollouts[rollout]
            corrupt = stored.corrupt(f"sketches {tuple(rows)} cannot be read ({error})")
            if stored.cache.skip_corrupt:
                stored.cache.brand(stored, corrupt)
            raise corrupt from error


def likeness(contents: Contents, embedding: np.ndarray) -> np.ndarray:
    """Cosine of every rollout's instruction to the one embedded here, (E,), as (17) compares them; float32 (R,). Raises
    ValueError for an embedding of another size than the bank's."""
    wanted, known = unit(np.asarray(embedding)), contents.embeddings
    if wanted.shape != known.shape[1:]:
        raise ValueError(f"the instruction embedding has shape {wanted.shape}; the bank holds {known.shape[1:]}")
    cosines = np.empty(len(known), np.float32)
    faiss.fvec_inner_products_ny(*map(faiss.swig_ptr, (cosines, wanted, known)), wanted.size, len(known))
    return np.round(cosines, DECIMALS)[contents.instruction]


class Retriever:
    """Recalls out of what the bank held when the episode began."""

    def __init__(self, reader: BankReader, config: RecallConfig | None = None) -> None:
        self.reader, self._config = reader, config or RecallConfig()
        self._episode_id: str | None = None
        self._candidates: _Candidates | None = None
        self._revision, self._projection, self._reason = 0, "", ""
        self._reference = (-1, -1)  # the decision that followed a candidate, and which; of the present episode
        self._encoded: dict[str, np.ndarray] = {}
        self.outcomes, self.unseen = Outcomes(self._config.outcomes), 0
        self._chosen: list[StoredRollout] = []  # by sight, the corrupt ones too
        self._index = StepIndex() if self._config.search == EVERYTHING else None
        self._snapshot, self._searched = Snapshot(), None  # of search "everything"

    def begin(self, episode_id: str, instruction_embedding: np.ndarray, policy: str = "") -> None:
        """Take a snapshot and choose the candidates, (17): the steps of the n rollouts with the likest instruction.

        instruction_embedding: (E,). policy: fingerprint; rollouts of another one are left out, as their tokens cannot
        be compared; empty: take all. Among equally like rollouts the newest are taken. With `search` "everything" the
        instruction is not looked at and candidates are chosen at each decision, of what is not forgotten by then. A
        second call for the same episode does nothing. Raises the errors of `BankReader.snapshot`, and ValueError for an
        embedding of another size than the bank's.
        """
        if episode_id == self._episode_id:
            return
        candidates, searched, lost = None, None, False
        while True:
            snapshot = self.reader.snapshot()
            eligible, reason = self._may_be_recalled(snapshot.contents, policy)
            try:
                if self._index is not None:
                    self._index.follow(snapshot, lost=lost)
                    searched = self._index.among(snapshot, eligible)
                elif not reason:
                    told = self._likest_told(snapshot, eligible, instruction_embedding)
                    candidates = self._candidates_of(told, lost=lost)
                break
            except FileNotFoundError:  # forgotten since the snapshot was taken, or lost: the next snapshot tells
                lost = True
        self._candidates, self._reference = candidates, (-1, -1)
        self._snapshot, self._searched, self._reason = snapshot, searched, reason or "what would be compared is corrupt"
        self._revision, self._projection, self._episode_id = snapshot.revision, snapshot.projection, episode_id

    def _may_be_recalled(self, contents: Contents, policy: str) -> tuple[np.ndarray, str]:
        """Which rollouts, bool (R,); why there is none, in words."""
        eligible = contents.recallable.copy()
        for kept, reason in (
            (True, "the bank is empty"),
            (not policy or contents.policy == contents.policies.get(policy), "the bank holds nothing of this policy"),
            (not self._config.success_only or contents.success, "the bank holds no success"),
        ):
            eligible &= kept
            if not eligible.any():
                return eligible, reason
        return eligible, ""

    def _likest_told(self, snapshot: Snapshot, eligible: np.ndarray, embedding: np.ndarray) -> list[StoredRollout]:
        """The n rollouts by instruction, oldest first."""
        cosines = np.where(eligible, likeness(snapshot.contents, embedding), -np.inf)
        newest = _best(cosines[::-1], min(self._config.rollouts_n, int(eligible.sum())))
        return [snapshot.rollouts[i] for i in self._bounded(snapshot, len(cosines) - 1 - newest)]

    def _likest_seen(self, query: PolicyStep, followed: StoredRollout | None) -> list[StoredRollout]:
        """The n rollouts by the likest steps of all, and the one that is followed, oldest first."""
        snapshot = self._snapshot
        hits, _ = self._searched.search(query.key.q, self._config.hits)
        chosen = self._bounded(snapshot, np.array(list(dict.fromkeys(hits.tolist())))[: self._config.rollouts_n])
        if followed is not None and followed in snapshot.rollouts:
            chosen = np.union1d(chosen, snapshot.rollouts.index(followed))
        return [snapshot.rollouts[i] for i in chosen]

    def _bounded(self, snapshot: Snapshot, likest: np.ndarray) -> np.ndarray:
        """Of rollouts, likest first, as many as `steps_n` leaves, oldest first."""
        steps = np.cumsum([snapshot.rollouts[i].record.decisions for i in likest])
        return np.sort(likest[: max(1, int((steps <= self._config.steps_n).sum()))])

    def _candidates_of(self, chosen: list[StoredRollout], *, lost: bool) -> _Candidates | None:
        """None where all are corrupt. lost: as of `StepsCache.load`."""
        loaded = chosen[0].cache.load(chosen, lost=lost)
        read = [(rollout, *one) for rollout, one in zip(chosen, loaded, strict=True) if one is not None]
        known = {rollout.record.payload for rollout, *_ in read}
        self._encoded = {name: codes for name, codes in self._encoded.items() if name in known}
        return _Candidates(*map(list, zip(*read, strict=True)), self._config) if read else None

    def _choose_by_sight(self, query: PolicyStep) -> None:
        """Choose the candidates by what is seen, if that is searched; the same rollouts as before need no reading."""
        lost = False
        while self._searched is not None:
            before, reference = self._reference
            followed = self._candidates.place(reference) if self._next(query.context.step) >= 0 else (None, 0)
            chosen = self._likest_seen(query, followed[0])
            if self._candidates is not None and chosen == self._chosen:
                return
            try:
                self._candidates, self._chosen = self._candidates_of(chosen, lost=lost), chosen
            except FileNotFoundError:  # forgotten since the episode began, or lost: the newest snapshot tells
                self._leave_out_forgotten(query.policy)
                lost = True
            else:
                self._reference = (before, self._candidates.find(*followed) if self._candidates else -1)
                return

    def _leave_out_forgotten(self, policy: str) -> None:
        there = {rollout.record.payload for rollout in self.reader.snapshot().rollouts}
        kept = np.array([rollout.record.payload in there for rollout in self._snapshot.rollouts], bool)
        self._snapshot = self._snapshot.only(kept)
        self._searched = self._index.among(self._snapshot, self._may_be_recalled(self._snapshot.contents, policy)[0])

    def warm(self) -> Snapshot:
        """Read what the newest rollouts are compared by, and what is searched, before an episode asks for it, and learn
        from how they ended. Raises as `begin` does."""
        snapshot = self.reader.snapshot()
        if newest := snapshot.rollouts[-self._config.rollouts_n :]:
            with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile: the next episode does without
                newest[0].cache.load(newest)
                self.outcomes.learn(snapshot.rollouts)
        if self._index is not None:
            with contextlib.suppress(FileNotFoundError):
                self._index.follow(snapshot)
        return snapshot

    def recall(self, query: PolicyStep) -> Recall:
        """The k best steps by (18) and the one drawn by (19); the same (seed, step) draws the same in any process (with
        `follow`, after the same decisions).

        Begins the episode of the query if it is a new one. Candidates with equal scores rank in the order they were
        stored. Confidence is the mean over (19) of how far the similarities lie between `confidence_floor` (0) and 1
        (1), times the share of the k that come from successes; `Chance` says what that promises, by the ends of the
        episodes that `warm` has read. Raises ValueError for a query of other sizes than the bank's, BankProjectionError
        for one whose key is of another projection, and BankCorruptionError, unless the reader skips what is corrupt:
        then the rest of the candidates are recalled.
        """
        while True:
            try:
                return self._recall(query)
            except BankCorruptionError:
                candidates = self._candidates
                if candidates is None or not candidates.rollouts[0].cache.skip_corrupt:
                    raise
                self._episode_id = None  # begin again without it

    def _recall(self, query: PolicyStep) -> Recall:
        context, config = query.context, self._config
        self.begin(context.episode_id, query.instruction_embedding, query.policy)
        self._choose_by_sight(query)
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
        lambda_ = np.float32(config.lambda_)
        score = lambda_ * similarity + (1 - lambda_) * candidates.prior
        coarse = score
        if config.rerank:
            similarity, score = self._reranked(query, similarity, score)
        ranked = score
        if config.min_similarity:
            score = np.where(similarity < config.min_similarity, -np.inf, score)
        top = _best(score, config.k)
        top = top[score[top] > -np.inf]
        if not len(top):
            best = similarity[ranked > -np.inf].max()
            reason = f"nothing is similar enough: {best:.3f} at best, at least {config.min_similarity:g} is asked for"
            return Recall(candidates=count, revision=self._revision, reason=reason)

        probability = _softmax(score[top].astype(np.float64) / config.temperature)
        drawn = 0
        # Seeds are unsigned on every wire; what is negative here is the same 64 bits.
        rng = np.random.default_rng([context.seed % 2**64, context.step])
        if not config.argmax:
            drawn = min(int(np.searchsorted(np.cumsum(probability), rng.random(), side="right")), len(top) - 1)
        if config.follow:
            top, drawn = self._follow(context.step, score, top, drawn)
            probability = _softmax(score[top].astype(np.float64) / config.temperature)
        if config.argmax:
            probability = np.eye(1, len(top), drawn)[0]

        drawn_at_random = rng.choice(count, min(config.context, count), replace=False) if config.context else []
        above_floor = np.clip((similarity[top] - config.confidence_floor) / (1 - config.confidence_floor), 0, 1)
        chosen = np.concatenate([top, np.array(drawn_at_random, top.dtype)])
        probabilities = np.concatenate([probability, np.zeros(len(drawn_at_random))])
        told = np.where(score[chosen] > -np.inf, score[chosen], coarse[chosen])  # those at random may be unranked
        steps = candidates.experiences(chosen, similarity, told, probabilities, self._codes(chosen))
        successes = np.count_nonzero(steps.outcome[: len(top)] == Outcome.SUCCESS)
        sketch, successor = candidates.tokens(top[drawn])
        confidence = float(probability @ above_floor * successes / len(top))
        followed = Followed(context.instruction, [steps.rollout_id[drawn]], np.array([confidence]))
        said = self.outcomes.chance(followed) if query.policy in ("", self.outcomes.policy) else None
        return Recall(
            steps=steps,
            drawn=drawn,
            sketch=sketch,
            successor=successor,
            confidence=confidence,
            chance=None if said is None else float(said[0]),
            candidates=count,
            revision=self._revision,
            codes=config.codes.identity if config.codes else "",
        )

    @property
    def looks(self) -> bool:
        """Whether images rank what is recalled."""
        return self._config.rerank is not None

    def waits_for(self, context: StepContext) -> bool:
        """Whether a decision has to be looked at before it is recalled for."""
        return self.looks and not self._config.rerank.has_seen(context)

    def look(self, observation: Observation) -> None:
        """What is seen at a decision that may be recalled for; it is looked at only where images rank what is recalled.
        Raises ValueError for an observation without the camera that is looked through."""
        if self.looks and observation.context.correct:
            self._config.rerank.look(observation)

    def _reranked(self, query: PolicyStep, similarity: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarity and score of all candidates with images, of the shortlist alone; as they are where nothing was
        seen of this decision, which is counted in `unseen`."""
        candidates, rerank, lambda_ = self._candidates, self._config.rerank, np.float32(self._config.lambda_)
        short = _best(score, rerank.size)
        next_ = self._next(query.context.step) if self._config.follow else -1
        if next_ >= 0 and not (short == next_).any():
            short = np.append(short[:-1], next_)
        seen = rerank(query.context, candidates.shortlist(short, similarity, query))
        if seen is None:
            self.unseen += 1
            return similarity, score
        similarity, score = similarity.copy(), np.full_like(score, -np.inf)
        similarity[short] = seen
        score[short] = lambda_ * seen + (1 - lambda_) * candidates.prior[short]
        return similarity, score

    def similarities(self, query: PolicyStep) -> np.ndarray:
        """Fused similarity (38) of every candidate, float32 (C,), by rollout and step in the order they were stored."""
        self.begin(query.context.episode_id, query.instruction_embedding, query.policy)
        self._choose_by_sight(query)
        return self._candidates.similarity(query) if self._candidates else np.zeros(0, np.float32)

    def _follow(self, step: int, score: np.ndarray, top: np.ndarray, drawn: int) -> tuple[np.ndarray, int]:
        """The k and the index of the one drawn, if the reference of the decision before can be followed on; it then
        takes the place of the last of the k, unless it is among them. The choice is remembered."""
        next_ = self._next(step)
        if next_ >= 0 and score[next_] >= score[top[0]] - self._config.follow:
            if not (top == next_).any():
                top = np.append(top[:-1], next_)
            drawn = int(np.flatnonzero(top == next_)[0])
        self._reference = (step, int(top[drawn]))
        return top, drawn

    def _next(self, step: int) -> int:
        """The candidate after the reference of the decision before this one; -1 where there is none."""
        before, reference = self._reference
        return self._candidates.next(reference) if step == before + 1 and reference >= 0 else -1

    def _codes(self, chosen: np.ndarray) -> np.ndarray:
        """What the candidates `chosen`, (M,), saw, (M, C); a rollout is encoded once and kept while it is one."""
        candidates, codes = self._candidates, self._config.codes
        if not codes:
            return np.zeros((len(chosen), 0), np.float32)
        rows, encoded = candidates.row[chosen], []
        for row, rollout in zip(rows, candidates.rollout[rows], strict=True):
            record = candidates.rollouts[rollout].record
            if record.payload not in self._encoded:
                self._encoded[record.payload] = codes(candidates.sketches(rollout, range(record.decisions)))
            encoded.append(self._encoded[record.payload][row - candidates.first[rollout]])
        return np.stack(encoded)


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
