"""Retrieval for one decision after another, out of what the bank held when the episode began."""

from __future__ import annotations

import contextlib

import numpy as np

from efn_ros.bank.format.errors import BankCorruptionError, BankProjectionError
from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.bank.store.snapshot import Contents, Snapshot, SnapshotSource
from efn_ros.retrieval.candidates import Candidates
from efn_ros.retrieval.config import EVERYTHING, RetrievalConfig
from efn_ros.retrieval.index import StepIndex
from efn_ros.retrieval.instruction import top_rollouts
from efn_ros.retrieval.ranking import sample, sampling_probabilities, score, top_k
from efn_ros.retrieval.success_model import OutcomeHistory
from efn_ros.types import Experiences, Observation, Outcome, PolicyStep, Recall, RetrievalQuery

NO_CANDIDATE = -1


class Retriever:
    """Recalls the remembered steps that are most similar to the present one.

    Attributes:
        outcomes: What the ends of past episodes say of following memory.
    """

    def __init__(self, source: SnapshotSource, config: RetrievalConfig | None = None) -> None:
        self.config = config or RetrievalConfig()
        self.outcomes = OutcomeHistory(self.config.success_model_rollouts)
        self._source = source
        self._episode_id: str | None = None
        self._candidates: Candidates | None = None
        self._snapshot, self._reason = Snapshot(), ""
        self._reference = (-1, NO_CANDIDATE)  # the decision that selected a candidate, and which; of this episode
        self._codes_of: dict[str, np.ndarray] = {}  # by payload
        # Of search "everything": the index, what of it may be recalled, and the rollouts that it chose last.
        self._index = StepIndex() if self.config.search == EVERYTHING else None
        self._searched, self._chosen = None, []

    # What a retriever of its own may fill in.

    def observe(self, observation: Observation) -> None:
        """Take the observation of a decision before its recall; nothing of it is used here."""

    def rank(
        self, query: RetrievalQuery, candidates: Candidates, similarity: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarity and score (18) of every candidate, float32 (C,) each; a score of -inf is never recalled."""
        return similarity, score(similarity, candidates.prior, self.config.lambda_)

    # What whoever runs the loop calls.

    def prefetch(self) -> Snapshot:
        """Read the newest rollouts and the index before an episode asks for them, and learn from how they ended.

        Raises:
            BankError: As `begin` raises it.
        """
        snapshot = self._source.snapshot()
        if newest := snapshot.rollouts[-self.config.max_rollouts :]:
            with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile: the next episode does without
                newest[0].cache.load(newest)
                self.outcomes.update(snapshot.rollouts)
        if self._index is not None:
            with contextlib.suppress(FileNotFoundError):
                self._index.update(snapshot)
        return snapshot

    def begin(self, query: RetrievalQuery | PolicyStep) -> None:
        """Take a snapshot and choose the candidates for the episode of a query; does nothing for the same episode.

        Rollouts of another policy than the query's are left out, as their tokens cannot be compared; a query without
        one takes all. With `search` "everything" candidates are chosen at each decision instead.

        Raises:
            BankError: The bank cannot be read, or is corrupt and its reader does not skip that.
            ValueError: The instruction embedding is of another size than the bank's.
        """
        if query.context.episode_id == self._episode_id:
            return
        candidates, searched, missing_is_corrupt = None, None, False
        while True:
            snapshot = self._source.snapshot()
            eligible, reason = self._eligible(snapshot.contents, query.policy)
            try:
                if self._index is not None:
                    self._index.update(snapshot, missing_is_corrupt=missing_is_corrupt)
                    searched = self._index.restrict(snapshot, eligible)
                elif not reason:
                    similar = top_rollouts(
                        snapshot.contents, eligible, query.instruction_embedding, self.config.max_rollouts
                    )
                    chosen = [snapshot.rollouts[i] for i in self._bounded(snapshot, similar)]
                    candidates = self._load(chosen, missing_is_corrupt=missing_is_corrupt)
                break
            except FileNotFoundError:  # forgotten since the snapshot was taken, or missing: the next snapshot tells
                missing_is_corrupt = True
        self._candidates, self._reference = candidates, (-1, NO_CANDIDATE)
        self._snapshot, self._searched, self._reason = snapshot, searched, reason or "what would be compared is corrupt"
        self._episode_id = query.context.episode_id

    def recall(self, query: RetrievalQuery | PolicyStep) -> Recall:
        """Return the k best steps by score (18) and the selected one (19).

        The same (seed, step) selects the same in any process; with `reference_margin`, after the same decisions.
        Begins the episode of the query if it is a new one. Candidates with equal scores rank in the order they were
        stored. Confidence is the mean over (19) of how far the similarities lie between `confidence_floor` (0) and 1
        (1), times the share of the k that come from successes.

        Raises:
            ValueError: The query is of other sizes than the bank.
            BankProjectionError: Its key is of another projection.
            BankCorruptionError: A payload is not what was written, and the reader does not skip such; if it does, the
                other candidates are recalled.
        """
        while True:
            try:
                return self._recall(query)
            except BankCorruptionError:
                candidates = self._candidates
                if candidates is None or not candidates.rollouts[0].cache.skip_corrupt:
                    raise
                self._episode_id = None  # begin again without it

    def similarities(self, query: RetrievalQuery | PolicyStep) -> np.ndarray:
        """Return the fused similarity (38) of every candidate, float32 (C,), in the order they were stored."""
        self.begin(query)
        self._choose_by_index(query)
        return self._candidates.similarity(query) if self._candidates else np.zeros(0, np.float32)

    # One decision.

    def _recall(self, query: RetrievalQuery | PolicyStep) -> Recall:
        context, config = query.context, self.config
        self.begin(query)
        self._choose_by_index(query)
        candidates = self._candidates
        if candidates is None:
            return Recall(revision=self._snapshot.revision, reason=self._reason)
        if query.projection not in ("", self._snapshot.projection):
            raise BankProjectionError(
                f"the query was made with projection {query.projection}, the bank with {self._snapshot.projection}; "
                "give both the same sizes and seed"
            )
        coarse = candidates.similarity(query)
        similarity, scores = self.rank(query, candidates, coarse)
        ranked = scores > -np.inf
        if config.min_similarity:
            scores = np.where(similarity < config.min_similarity, -np.inf, scores)
        top = top_k(scores, config.k)
        top = top[scores[top] > -np.inf]
        if not len(top):
            best = similarity[ranked].max()
            reason = f"nothing is similar enough: {best:.3f} at best, at least {config.min_similarity:g} is asked for"
            return Recall(candidates=len(candidates), revision=self._snapshot.revision, reason=reason)

        # Seeds are unsigned on every wire; what is negative here is the same 64 bits.
        rng = np.random.default_rng([context.seed % 2**64, context.step])
        probability = sampling_probabilities(scores[top], config.temperature)
        selected = 0 if config.argmax else sample(probability, rng)
        if config.reference_margin:
            top, selected = self._continue_reference(context.step, scores, top, selected)
            probability = sampling_probabilities(scores[top], config.temperature)
        if config.argmax:
            probability = np.eye(1, len(top), selected)[0]
        experiences = self._experiences(candidates, top, probability, similarity, coarse, scores, rng)
        return self._answer(query, candidates, experiences, top, selected, probability, similarity)

    def _experiences(
        self,
        candidates: Candidates,
        top: np.ndarray,
        probability: np.ndarray,
        similarity: np.ndarray,
        coarse: np.ndarray,
        scores: np.ndarray,
        rng: np.random.Generator,
    ) -> Experiences:
        """The k best and, after them, the steps drawn at random."""
        count, config = len(candidates), self.config
        extra = rng.choice(count, min(config.random_steps, count), replace=False) if config.random_steps else []
        chosen = np.concatenate([top, np.array(extra, top.dtype)])
        unranked = score(coarse[chosen], candidates.prior[chosen], config.lambda_)
        return candidates.experiences(
            chosen,
            similarity=similarity,
            score=np.where(scores[chosen] > -np.inf, scores[chosen], unranked),  # those at random may be unranked
            probability=np.concatenate([probability, np.zeros(len(extra))]),
            code=self._codes(candidates, chosen),
        )

    def _answer(
        self,
        query: RetrievalQuery | PolicyStep,
        candidates: Candidates,
        experiences: Experiences,
        top: np.ndarray,
        selected: int,
        probability: np.ndarray,
        similarity: np.ndarray,
    ) -> Recall:
        """The recall of the k best, `top`, with the confidence in it."""
        config, k = self.config, len(top)
        above_floor = np.clip((similarity[top] - config.confidence_floor) / (1 - config.confidence_floor), 0, 1)
        successes = np.count_nonzero(experiences.outcome[:k] == Outcome.SUCCESS)
        confidence = float(probability @ above_floor * successes / k)
        sketch, successor = candidates.tokens(top[selected])
        episode = FollowedEpisode(query.context.instruction, [experiences.rollout_id[selected]], np.array([confidence]))
        known = query.policy in ("", self.outcomes.policy)
        predicted = self.outcomes.model.predict(episode) if known else None
        return Recall(
            steps=experiences,
            selected=selected,
            sketch=sketch,
            successor=successor,
            confidence=confidence,
            success_probability=None if predicted is None else float(predicted[0]),
            candidates=len(candidates),
            revision=self._snapshot.revision,
            codes=config.codes.identity if config.codes else "",
        )

    def _continue_reference(
        self, step: int, scores: np.ndarray, top: np.ndarray, selected: int
    ) -> tuple[np.ndarray, int]:
        """The k and the selected index, if the reference of the decision before is followed on.

        Its successor then takes the place of the last of the k, unless it is among them. The choice is kept.
        """
        next_ = self.next_reference(step)
        if next_ >= 0 and scores[next_] >= scores[top[0]] - self.config.reference_margin:
            if not (top == next_).any():
                top = np.append(top[:-1], next_)
            selected = int(np.flatnonzero(top == next_)[0])
        self._reference = (step, int(top[selected]))
        return top, selected

    def next_reference(self, step: int) -> int:
        """Return the candidate after the one selected at the decision before this one; -1 where there is none."""
        before, reference = self._reference
        following = step == before + 1 and reference >= 0 and self._candidates is not None
        return self._candidates.successor(reference) if following else NO_CANDIDATE

    def _codes(self, candidates: Candidates, chosen: np.ndarray) -> np.ndarray:
        """Return the codes of the candidates `chosen`, (M,), float32 (M, codes); a rollout is encoded once."""
        codes = self.config.codes
        if not codes:
            return np.zeros((len(chosen), 0), np.float32)
        rows, encoded = candidates.row[chosen], []
        for row, rollout in zip(rows, candidates.rollout[rows], strict=True):
            record = candidates.rollouts[rollout].record
            if record.payload not in self._codes_of:
                self._codes_of[record.payload] = codes(candidates.sketches(rollout, range(record.decisions)))
            encoded.append(self._codes_of[record.payload][row - candidates.first[rollout]])
        return np.stack(encoded)

    # Which rollouts are compared.

    def _eligible(self, contents: Contents, policy: str) -> tuple[np.ndarray, str]:
        """Which rollouts may be recalled, bool (R,); and why there is none, in words."""
        eligible = contents.recallable.copy()
        for kept, reason in (
            (True, "the bank is empty"),
            (not policy or contents.policy == contents.policies.get(policy), "the bank holds nothing of this policy"),
            (not self.config.success_only or contents.success, "the bank holds no success"),
        ):
            eligible &= kept
            if not eligible.any():
                return eligible, reason
        return eligible, ""

    def _bounded(self, snapshot: Snapshot, ranked: np.ndarray) -> np.ndarray:
        """Of rollouts, most similar first, as many as `max_steps` leaves, oldest first."""
        steps = np.cumsum([snapshot.rollouts[i].record.decisions for i in ranked])
        return np.sort(ranked[: max(1, int((steps <= self.config.max_steps).sum()))])

    def _load(self, chosen: list[StoredRollout], *, missing_is_corrupt: bool) -> Candidates | None:
        """The steps of the chosen rollouts; None where all are corrupt."""
        loaded = chosen[0].cache.load(chosen, missing_is_corrupt=missing_is_corrupt)
        read = [(rollout, *one) for rollout, one in zip(chosen, loaded, strict=True) if one is not None]
        used = {rollout.record.payload for rollout, *_ in read}
        self._codes_of = {name: codes for name, codes in self._codes_of.items() if name in used}
        return Candidates(*map(list, zip(*read, strict=True)), self.config) if read else None

    def _choose_by_index(self, query: RetrievalQuery | PolicyStep) -> None:
        """With search "everything": choose the candidates by what is seen; the same rollouts need no reading."""
        missing_is_corrupt = False
        while self._searched is not None:
            before, reference = self._reference
            followed = (None, 0)
            if self._candidates is not None and self.next_reference(query.context.step) >= 0:
                followed = self._candidates.locate(reference)
            chosen = self._top_by_key(query, followed[0])
            if self._candidates is not None and chosen == self._chosen:
                return
            try:
                self._candidates, self._chosen = self._load(chosen, missing_is_corrupt=missing_is_corrupt), chosen
            except FileNotFoundError:  # forgotten since the episode began, or missing: the newest snapshot tells
                self._leave_out_forgotten(query.policy)
                missing_is_corrupt = True
            else:
                found = self._candidates.find(*followed) if self._candidates and followed[0] else NO_CANDIDATE
                self._reference = (before, found)
                return

    def _top_by_key(self, query: RetrievalQuery | PolicyStep, followed: StoredRollout | None) -> list[StoredRollout]:
        """The rollouts with the most similar steps of all, and the one that is followed, oldest first."""
        snapshot = self._snapshot
        hits, _ = self._searched.search(query.key.q, self.config.hits)
        ranked = np.array(list(dict.fromkeys(hits.tolist())))[: self.config.max_rollouts]
        chosen = self._bounded(snapshot, ranked)
        if followed is not None and followed in snapshot.rollouts:
            chosen = np.union1d(chosen, snapshot.rollouts.index(followed))
        return [snapshot.rollouts[i] for i in chosen]

    def _leave_out_forgotten(self, policy: str) -> None:
        present = {rollout.record.payload for rollout in self._source.snapshot().rollouts}
        kept = np.array([rollout.record.payload in present for rollout in self._snapshot.rollouts], bool)
        self._snapshot = self._snapshot.only(kept)
        eligible, _ = self._eligible(self._snapshot.contents, policy)
        self._searched = self._index.restrict(self._snapshot, eligible)
