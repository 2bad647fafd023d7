"""Recall: the remembered steps most like the present one, among rollouts that were told something like it."""

from __future__ import annotations

import contextlib

import numpy as np

from efn_ros.bank.format.errors import BankCorruptionError, BankProjectionError
from efn_ros.bank.format.steps import Followed
from efn_ros.bank.store.reader import BankReader
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.bank.store.snapshot import Contents, Snapshot
from efn_ros.retrieval.candidates import _Candidates
from efn_ros.retrieval.config import EVERYTHING, RecallConfig
from efn_ros.retrieval.index import StepIndex
from efn_ros.retrieval.instruction import likeness
from efn_ros.retrieval.ranking import _best, _softmax
from efn_ros.retrieval.success_model import Outcomes
from efn_ros.types import Observation, Outcome, PolicyStep, Recall, StepContext


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
