# SPDX-License-Identifier: MIT
"""Success probability of an episode that follows a recalled step, fitted to the outcomes of past episodes.

A logistic regression with three inputs: the confidence of the recall, the success of episodes that followed the same
rollout, and the success of episodes with the same instruction. With little data it predicts the success rate of all
episodes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.types import Outcome

MIN_EPISODES = 10  # fewer give no prediction
PRIOR_EPISODES = 2.0  # with the overall success rate, added to every count
RIDGE = 1.0  # precision of the normal prior of the weights about 0
MAX_CONFIDENCE = 0.99  # confidence is clipped to [1 - MAX_CONFIDENCE, MAX_CONFIDENCE], so that its logit is finite
ALL, INSTRUCTION, SOURCE = (), "instruction", "source"  # groups of episodes
MAX_ITERATIONS, TOLERANCE = 50, 1e-9  # of Newton's method


class SuccessModel:
    """Predicts success from past episodes; each enters with its inputs as they were before it ended."""

    def __init__(self, episodes: Sequence[FollowedEpisode] = ()) -> None:
        # By group: all episodes, those of an instruction, and the shares of episodes that followed a rollout.
        self._group_successes: dict[tuple[str, ...], float] = defaultdict(float)
        self._group_episodes: dict[tuple[str, ...], float] = defaultdict(float)
        self._confidence = 0.0  # sum of logits over episodes
        self._inputs: list[np.ndarray] = []  # means over the decisions of each episode, so that each counts once
        self._successes: list[bool] = []
        self._weights: np.ndarray | None = None
        for episode in episodes:
            self.add(episode)

    @property
    def episodes(self) -> int:
        """Number of past episodes."""
        return len(self._successes)

    def add(self, episode: FollowedEpisode) -> None:
        """Add a past episode."""
        self._inputs.append(self._input(episode).mean(axis=0))
        self._successes.append(episode.success)
        self._weights = None
        self._confidence += float(_logit(episode.confidence).mean())
        shares = {ALL: 1.0, (INSTRUCTION, episode.instruction): 1.0}
        for source, count in Counter(episode.sources).items():
            shares[SOURCE, source] = count / len(episode.sources)
        for group, share in shares.items():
            self._group_successes[group] += share * episode.success
            self._group_episodes[group] += share

    def predict(self, episode: FollowedEpisode) -> np.ndarray | None:
        """Return the success probability at each of n decisions, (n,) in (0, 1); None with fewer than MIN_EPISODES."""
        weights = self.fit()
        if weights is None:
            return None
        inputs = self._input(episode)
        return _sigmoid(inputs[:, 0] + weights[0] + inputs[:, 1:] @ weights[1:])

    def fit(self) -> np.ndarray | None:
        """Return the weights, fitted again if episodes were added; None with fewer than MIN_EPISODES."""
        if self._weights is None and self.episodes >= MIN_EPISODES:
            rows = np.array(self._inputs)
            self._weights = fit_logistic(rows[:, 1:], np.array(self._successes), rows[:, 0])
        return self._weights

    def _input(self, episode: FollowedEpisode) -> np.ndarray:
        """Return float64 (n, 4): the logit of the overall success rate, then the difference of each input from it."""
        overall = (self._group_successes[ALL] + 1) / (self._group_episodes[ALL] + 2)  # so that no rate is 0 or 1
        mean_confidence = self._confidence / self.episodes if self.episodes else 0.0

        def logit(*group: str) -> float:
            successes, episodes = self._group_successes.get(group, 0.0), self._group_episodes.get(group, 0.0)
            return _logit((successes + PRIOR_EPISODES * overall) / (episodes + PRIOR_EPISODES))

        names, rows = np.unique(np.asarray(episode.sources), return_inverse=True)
        same_source = np.array([logit(SOURCE, name) for name in names.tolist()])[rows]
        same_instruction = logit(INSTRUCTION, episode.instruction)
        start = np.full(len(same_source), _logit(overall))
        return np.column_stack(
            [start, _logit(episode.confidence) - mean_confidence, same_source - start, same_instruction - start]
        )


class OutcomeHistory:
    """The success model of the newest rollouts of a bank; each rollout is read once.

    Attributes:
        model: Fitted to the rollouts of the last `update`.
        policy: Fingerprint of their policy; empty without any.
    """

    def __init__(self, max_rollouts: int) -> None:
        self.model, self.policy = SuccessModel(), ""
        self._max_rollouts = max_rollouts
        self._read: dict[str, FollowedEpisode | None] = {}  # by payload

    def update(self, rollouts: Sequence[StoredRollout]) -> None:
        """Fit the model to the rollouts of the newest policy that ended in success or failure.

        Args:
            rollouts: Of the bank, oldest first.

        Raises:
            BankCorruptionError: A payload is not what was written, and the reader does not skip such.
            FileNotFoundError: A rollout has been removed since.
            OSError: The disk refused.
        """
        newest = rollouts[max(0, len(rollouts) - self._max_rollouts) :]
        policy = newest[-1].record.policy if newest else ""
        read = {}
        for rollout in newest:
            name, record = rollout.record.payload, rollout.record
            if record.outcome in (Outcome.SUCCESS, Outcome.FAILURE) and record.policy == policy:
                known = name in self._read
                read[name] = self._read[name] if known else rollout.cache.read_or_skip(rollout, rollout.followed)
        names, before = list(read), list(self._read)
        if names[: len(before)] != before:  # a rollout was removed
            self.model, before = SuccessModel(), []
        for name in names[len(before) :]:
            if episode := read[name]:
                self.model.add(episode)
        self._read, self.policy = read, policy
        self.model.fit()


def fit_logistic(inputs: np.ndarray, success: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Fit P = 1 / (1 + exp(-(offset + w_0 + inputs w))) by Newton's method, with a normal prior of precision RIDGE.

    Args:
        inputs: (N, F).
        success: bool (N,).
        offset: (N,).

    Returns:
        The weights (1 + F,), the constant first.
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


def _logit(share):
    share = np.clip(share, 1 - MAX_CONFIDENCE, MAX_CONFIDENCE)
    return np.log(share / (1 - share))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
