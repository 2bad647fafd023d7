# SPDX-License-Identifier: MIT
"""Retrieval for consecutive decisions, from the contents of the bank at the beginning of the episode."""

from __future__ import annotations

import contextlib

import numpy as np

from efn_ros.bank.format.errors import BankCorruptionError, BankProjectionError
from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.bank.store.snapshot import Snapshot, SnapshotSource
from efn_ros.retrieval.candidates import Candidates
from efn_ros.retrieval.code_cache import CodeCache
from efn_ros.retrieval.config import EVERYTHING, RetrievalConfig
from efn_ros.retrieval.index import EligibleSteps, StepIndex
from efn_ros.retrieval.ranking import sample, sampling_probabilities, score, top_k
from efn_ros.retrieval.rollouts import bound_steps, eligible_rollouts, top_rollouts
from efn_ros.retrieval.success_model import OutcomeHistory
from efn_ros.types import Experiences, Observation, Outcome, Recall, RetrievalQuery

NO_CANDIDATE = -1


class Retriever:
    """Recalls the stored steps that are most similar to the present one.

    Attributes:
        config: Settings.
        outcomes: Outcomes of past episodes that followed memory.
    """

    def __init__(self, source: SnapshotSource, config: RetrievalConfig | None = None) -> None:
        self.config = config or RetrievalConfig()
        self.outcomes = OutcomeHistory(self.config.success_model_rollouts)
        self._source = source
        self._episode_id: str | None = None
        self._candidates: Candidates | None = None
        self._snapshot, self._reason = Snapshot(), ""  # of the episode; why it has no candidates
        self._reference = (-1, NO_CANDIDATE)  # previous decision of the episode, and the candidate it selected
        self._codes = CodeCache(self.config.codes)
        # For search "everything": the index, its steps that may be recalled, and the rollouts chosen last.
        self._index = StepIndex() if self.config.search == EVERYTHING else None
        self._eligible_steps: EligibleSteps | None = None
        self._chosen: list[StoredRollout] = []

    def observe(self, observation: Observation) -> None:
        """Take the observation of a decision before its recall; for subclasses, nothing is done here."""

    def rank(
        self, query: RetrievalQuery, candidates: Candidates, similarity: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarity and score (18) of every candidate, float32 (C,) each; a score of -inf is never recalled."""
        return similarity, score(similarity, candidates.prior, self.config.lambda_)

    def prefetch(self) -> Snapshot:
        """Read the newest rollouts and update the index and the success model before an episode needs them.

        Raises:
            BankError: As `begin` raises it.
        """
        snapshot = self._source.snapshot()
        if newest := snapshot.rollouts[-self.config.max_rollouts :]:
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                newest[0].cache.load(newest)
                self.outcomes.update(snapshot.rollouts)
        if self._index is not None:
            with contextlib.suppress(FileNotFoundError):
                self._index.update(snapshot)
        return snapshot

    def begin(self, query: RetrievalQuery) -> None:
        """Take a snapshot and choose the candidates for the episode of a query; does nothing for the same episode.

        Rollouts of another policy than the query's are left out, as their tokens cannot be compared; a query without
        policy takes all. With `search` "everything", candidates are chosen at each decision instead.

        Raises:
            BankError: The bank cannot be read, or is corrupt and its reader does not skip that.
            ValueError: The instruction embedding has another size than the bank's.
        """
        if query.context.episode_id == self._episode_id:
            return
        config, candidates, eligible_steps, missing_is_corrupt = self.config, None, None, False
        while True:
            snapshot = self._source.snapshot()
            eligible, reason = eligible_rollouts(snapshot.contents, query.policy, config.success_only)
            try:
                if self._index is not None:
                    self._index.update(snapshot, missing_is_corrupt=missing_is_corrupt)
                    eligible_steps = self._index.restrict(snapshot, eligible)
                elif not reason:
                    embedding = query.instruction_embedding
                    ranked = top_rollouts(snapshot.contents, eligible, embedding, config.max_rollouts)
                    chosen = [snapshot.rollouts[i] for i in bound_steps(snapshot, ranked, config.max_steps)]
                    candidates = self._load(chosen, missing_is_corrupt=missing_is_corrupt)
                break
            except FileNotFoundError:  # removed since the snapshot, or lost: a new snapshot lacks what was removed
                missing_is_corrupt = True
        self._candidates, self._reference = candidates, (-1, NO_CANDIDATE)
        self._snapshot, self._eligible_steps = snapshot, eligible_steps
        self._reason = reason or "all candidates are corrupt"
        self._episode_id = query.context.episode_id

    def recall(self, query: RetrievalQuery) -> Recall:
        """Return the k best steps by score (18) and the selected one (19), with its successor.

        The same (seed, step) selects the same step in any process; with `reference_margin`, after the same decisions.
        A query of another episode begins it. Candidates with equal scores rank in the order in which they were stored.
        Confidence is the mean over (19) of the similarity, mapped from [`confidence_floor`, 1] to [0, 1], times the
        share of the k that come from successes.

        Raises:
            ValueError: The query has other sizes than the bank.
            BankProjectionError: Its key was made with another projection.
            BankCorruptionError: A payload is not what was written, and the reader does not skip such; if it does, the
                other candidates are recalled.

        Source: equation (3).
        """
        while True:
            try:
                return self._recall(query)
            except BankCorruptionError:
                candidates = self._candidates
                if candidates is None or not candidates.rollouts[0].cache.skip_corrupt:
                    raise
                self._episode_id = None  # begin again without the corrupt rollout

    def similarities(self, query: RetrievalQuery) -> np.ndarray:
        """Return the fused similarity (38) of every candidate, float32 (C,), in the order in which they were stored."""
        self.begin(query)
        self._choose_by_index(query)
        return self._candidates.similarity(query) if self._candidates else np.zeros(0, np.float32)

    def next_reference(self, step: int) -> int:
        """Return the successor of the candidate selected at the previous decision; -1 without one."""
        previous, reference = self._reference
        following = step == previous + 1 and reference >= 0
        return self._candidates.successor(reference) if following and self._candidates is not None else NO_CANDIDATE

    def _recall(self, query: RetrievalQuery) -> Recall:
        context, config = query.context, self.config
        self.begin(query)
        self._choose_by_index(query)
        candidates, revision = self._candidates, self._snapshot.revision
        if candidates is None:
            return Recall(revision=revision, reason=self._reason)
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
            reason = f"no step is similar enough: {best:.3f} at best, but {config.min_similarity:g} is required"
            return Recall(candidates=len(candidates), revision=revision, reason=reason)

        # Seeds are unsigned in messages; a negative one stands for the same 64 bits.
        rng = np.random.default_rng([context.seed % 2**64, context.step])
        probability = sampling_probabilities(scores[top], config.temperature)
        selected = 0 if config.argmax else sample(probability, rng)
        if config.reference_margin:
            top, selected = self._continue_reference(context.step, scores, top, selected)
            probability = sampling_probabilities(scores[top], config.temperature)
        if config.argmax:
            probability = np.eye(1, len(top), selected)[0]

        steps = self._experiences(candidates, top, probability, similarity, coarse, scores, rng)
        above_floor = np.clip((similarity[top] - config.confidence_floor) / (1 - config.confidence_floor), 0, 1)
        successes = np.count_nonzero(steps.outcome[: len(top)] == Outcome.SUCCESS)
        confidence = float(probability @ above_floor * successes / len(top))
        sketch, successor = candidates.sketch_pair(top[selected])
        episode = FollowedEpisode(context.instruction, [steps.rollout_id[selected]], np.array([confidence]))
        known = query.policy in ("", self.outcomes.policy)
        predicted = self.outcomes.model.predict(episode) if known else None
        return Recall(
            steps=steps,
            selected=selected,
            sketch=sketch,
            successor=successor,
            confidence=confidence,
            success_probability=None if predicted is None else float(predicted[0]),
            candidates=len(candidates),
            revision=revision,
            codes=self._codes.identity,
        )

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
        """Return the k best and, after them, the steps drawn at random."""
        count, config = len(candidates), self.config
        extra = rng.choice(count, min(config.random_steps, count), replace=False) if config.random_steps else []
        chosen = np.concatenate([top, np.array(extra, top.dtype)])
        coarse_score = score(coarse[chosen], candidates.prior[chosen], config.lambda_)
        return candidates.experiences(
            chosen,
            similarity=similarity,
            score=np.where(scores[chosen] > -np.inf, scores[chosen], coarse_score),  # a random step may have no rank
            probability=np.concatenate([probability, np.zeros(len(extra))]),
            code=self._codes(candidates, chosen),
        )

    def _continue_reference(
        self, step: int, scores: np.ndarray, top: np.ndarray, selected: int
    ) -> tuple[np.ndarray, int]:
        """Return the k best and the selected index, which continues along the reference if its score allows.

        The next step of the reference then replaces the last of the k, unless it is among them.
        """
        next_ = self.next_reference(step)
        if next_ >= 0 and scores[next_] >= scores[top[0]] - self.config.reference_margin:
            if not (top == next_).any():
                top = np.append(top[:-1], next_)
            selected = int(np.flatnonzero(top == next_)[0])
        self._reference = (step, int(top[selected]))
        return top, selected

    def _load(self, chosen: list[StoredRollout], *, missing_is_corrupt: bool) -> Candidates | None:
        """Return the steps of rollouts; None if all are corrupt."""
        loaded = chosen[0].cache.load(chosen, missing_is_corrupt=missing_is_corrupt)
        read = [(rollout, *one) for rollout, one in zip(chosen, loaded, strict=True) if one is not None]
        self._codes.retain(rollout for rollout, *_ in read)
        return Candidates(read, self.config) if read else None

    def _choose_by_index(self, query: RetrievalQuery) -> None:
        """With search "everything", choose the candidates by visual features; the same rollouts are not read again."""
        missing_is_corrupt = False
        while (steps := self._eligible_steps) is not None:
            (previous, reference), candidates, followed = self._reference, self._candidates, None
            if candidates is not None and self.next_reference(query.context.step) >= 0:
                followed = candidates.locate(reference)
            chosen = self._top_by_key(steps, query, followed[0] if followed else None)
            if candidates is not None and chosen == self._chosen:
                return
            try:
                self._candidates, self._chosen = self._load(chosen, missing_is_corrupt=missing_is_corrupt), chosen
            except FileNotFoundError:  # removed since the episode began, or lost: a new snapshot lacks what was removed
                self._leave_out_removed(query.policy)
                missing_is_corrupt = True
            else:
                found = self._candidates.find(*followed) if self._candidates and followed else NO_CANDIDATE
                self._reference = (previous, found)
                return

    def _top_by_key(
        self, steps: EligibleSteps, query: RetrievalQuery, followed: StoredRollout | None
    ) -> list[StoredRollout]:
        """Return the rollouts with the most similar keys, and the one that is followed, oldest first."""
        snapshot = self._snapshot
        hits, _ = steps.search(query.key.q, self.config.hits)
        ranked = np.array(list(dict.fromkeys(hits.tolist())))[: self.config.max_rollouts]
        chosen = bound_steps(snapshot, ranked, self.config.max_steps)
        if followed is not None and followed in snapshot.rollouts:
            chosen = np.union1d(chosen, snapshot.rollouts.index(followed))
        return [snapshot.rollouts[i] for i in chosen]

    def _leave_out_removed(self, policy: str) -> None:
        present = {rollout.record.payload for rollout in self._source.snapshot().rollouts}
        self._snapshot = self._snapshot.select(
            np.array([rollout.record.payload in present for rollout in self._snapshot.rollouts], bool)
        )
        eligible, _ = eligible_rollouts(self._snapshot.contents, policy, self.config.success_only)
        self._eligible_steps = self._index.restrict(self._snapshot, eligible) if self._index is not None else None
