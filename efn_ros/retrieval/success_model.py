"""How likely an episode succeeds that follows what is recalled, learned from how those ended that followed before it.

A logistic model with three inputs: how confident recall was, how episodes ended that followed the same rollout, and how
those ended that had the same instruction. With little data it gives the share of all episodes that succeeded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.types import Outcome

MIN_EPISODES = 10  # with fewer nothing is predicted
PRIOR_EPISODES = 2.0  # of the overall share, added to every record
RIDGE = 1.0  # precision of the normal prior of the weights about 0
MAX_CONFIDENCE = 0.99  # confidence is clipped to [1 - MAX_CONFIDENCE, MAX_CONFIDENCE], so that its logit is finite
MAX_ITERATIONS, TOLERANCE = 50, 1e-9  # of Newton's method


@dataclass
class _Record:
    successes: float = 0.0
    episodes: float = 0.0

    def add(self, success: bool, share: float = 1.0) -> None:
        self.successes += share * success
        self.episodes += share

    def logit(self, overall: float) -> float:
        """Of the share of successes, with PRIOR_EPISODES of the share `overall` added."""
        return _logit((self.successes + PRIOR_EPISODES * overall) / (self.episodes + PRIOR_EPISODES))


_EMPTY = _Record()


class SuccessModel:
    """Predicts success from the episodes before; each episode enters as it was seen before it ended."""

    def __init__(self, episodes: Sequence[FollowedEpisode] = ()) -> None:
        self._all = _Record()
        self._instructions: dict[str, _Record] = defaultdict(_Record)
        self._sources: dict[str, _Record] = defaultdict(_Record)
        self._confidence = 0.0  # logits, summed over episodes
        self._inputs: list[np.ndarray] = []  # of each episode the mean over its decisions, so that each counts once
        self._successes: list[bool] = []
        self._weights: np.ndarray | None = None
        for episode in episodes:
            self.add(episode)

    @property
    def episodes(self) -> int:
        """How many it has learned from."""
        return len(self._successes)

    def add(self, episode: FollowedEpisode) -> None:
        """Learn from one more episode."""
        self._inputs.append(self._input(episode).mean(axis=0))
        self._successes.append(episode.success)
        self._weights = None
        self._all.add(episode.success)
        self._confidence += float(_logit(episode.confidence).mean())
        self._instructions[episode.instruction].add(episode.success)
        for source, count in Counter(episode.sources).items():
            self._sources[source].add(episode.success, count / len(episode.sources))

    def predict(self, episode: FollowedEpisode) -> np.ndarray | None:
        """Return the success probability at each of n decisions, (n,) in (0, 1); None after fewer than MIN_EPISODES."""
        weights = self.fit()
        if weights is None:
            return None
        inputs = self._input(episode)
        return _sigmoid(inputs[:, 0] + weights[0] + inputs[:, 1:] @ weights[1:])

    def fit(self) -> np.ndarray | None:
        """Return the weights, fitted anew if episodes were added; None after fewer than MIN_EPISODES."""
        if self._weights is None and self.episodes >= MIN_EPISODES:
            rows = np.array(self._inputs)
            self._weights = fit_logistic(rows[:, 1:], np.array(self._successes), rows[:, 0])
        return self._weights

    def _input(self, episode: FollowedEpisode) -> np.ndarray:
        """(n, 4): the logit of the overall share of successes, then by how much more each input promises."""
        # One success and one failure are taken for granted, so that no share is ever certain.
        overall = (self._all.successes + 1) / (self._all.episodes + 2)
        usual = self._confidence / self.episodes if self.episodes else 0.0
        same_instruction = self._instructions.get(episode.instruction, _EMPTY).logit(overall)
        names, rows = np.unique(np.asarray(episode.sources), return_inverse=True)
        same_source = np.array([self._sources.get(name, _EMPTY).logit(overall) for name in names.tolist()])[rows]
        start = np.full(len(same_source), _logit(overall))
        return np.column_stack(
            [start, _logit(episode.confidence) - usual, same_source - start, same_instruction - start]
        )


class OutcomeHistory:
    """The newest rollouts of a bank as a `SuccessModel`; each rollout is read once.

    Attributes:
        model: Fitted on the rollouts of the last `update`.
        policy: Fingerprint of the policy that they are of; empty before there are any.
    """

    def __init__(self, max_rollouts: int) -> None:
        self.model, self.policy = SuccessModel(), ""
        self._max_rollouts = max_rollouts
        self._read: dict[str, FollowedEpisode | None] = {}  # by payload

    def update(self, rollouts: Sequence[StoredRollout]) -> None:
        """Learn from rollouts, oldest first, that are of the last one's policy and ended in success or failure.

        Raises:
            BankCorruptionError: A payload is not what was written, and the reader does not skip such.
            FileNotFoundError: A rollout has been forgotten since.
            OSError: The disk does not answer.
        """
        newest = rollouts[-self._max_rollouts :] if self._max_rollouts else ()
        read = {}
        for rollout in newest:
            name, record = rollout.record.payload, rollout.record
            ended = record.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
            if ended and record.policy == newest[-1].record.policy:
                known = name in self._read
                read[name] = self._read[name] if known else rollout.cache.read_or_skip(rollout, rollout.followed)
        names, before = list(read), list(self._read)
        if names[: len(before)] != before:  # something was forgotten
            self.model, before = SuccessModel(), []
        for name in names[len(before) :]:
            if episode := read[name]:
                self.model.add(episode)
        self._read, self.policy = read, newest[-1].record.policy if newest else ""
        self.model.fit()


def fit_logistic(inputs: np.ndarray, success: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the weights (1 + F,), constant first, of P = 1 / (1 + exp(-(offset + w_0 + inputs w))).

    They maximise the posterior under a normal prior of precision RIDGE, by Newton's method.

    Args:
        inputs: (N, F).
        success: bool (N,).
        offset: (N,).
    """
    x = np.column_stack([np.ones(len(inputs)), inputs])
    weights = np.zeros(x.shape[1])
    for _ in range(MAX_ITERATIONS):
        probability = _sigmoid(offset + x @ weights)
        gradient = x.T @ (probability - success) + RIDGE * weights
        curvature = x.T * (probability * (1 - probability)) @ x + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < TOLERANCE:
            break
    return weights


def prequential_predictions(episodes: Sequence[FollowedEpisode]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each episode what was predicted from those before it, and whether it succeeded.

    Predictions are means over an episode's decisions, float64 (N,); successes bool (N,). The first episodes, for which
    nothing is predicted, are left out.
    """
    model, predictions, successes = SuccessModel(), [], []
    for episode in episodes:
        if (predicted := model.predict(episode)) is not None:
            predictions.append(float(predicted.mean()))
            successes.append(episode.success)
        model.add(episode)
    return np.array(predictions), np.array(successes, bool)


def _logit(share):
    share = np.clip(share, 1 - MAX_CONFIDENCE, MAX_CONFIDENCE)
    return np.log(share / (1 - share))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
