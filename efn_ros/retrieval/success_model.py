"""How likely an episode succeeds that follows what is recalled, learned from how those ended that followed before it.

A logistic model with three inputs: how sure recall was, how episodes ended that followed the same rollout, and how
those ended that were told the same. Where there is little to go by, it says the share of all that succeeded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from efn_ros.bank.format.steps import Followed
from efn_ros.types import Outcome

if TYPE_CHECKING:
    from efn_ros.bank.store.rollout import StoredRollout


LEAST = 10  # episodes; after fewer nothing is said


PRIOR = 2.0  # episodes that a record of few is filled up with, of the share of all


RIDGE = 1.0  # of the weights: the precision of a normal prior about 0


SURE = 0.99  # confidence is taken within [1 - SURE, SURE], so that its logit is finite


STEPS, CONVERGED = 50, 1e-9  # of Newton's method


@dataclass
class _Record:
    successes: float = 0.0
    episodes: float = 0.0

    def add(self, success: bool, share: float = 1.0) -> None:
        self.successes += share * success
        self.episodes += share

    def logit(self, overall: float) -> float:
        """Of the share of successes, filled up with PRIOR episodes of the share `overall`."""
        return _logit((self.successes + PRIOR * overall) / (self.episodes + PRIOR))


NOTHING = _Record()


class Chance:
    """Learns from one episode after another; each is seen as it was before it ended, so nothing foretells itself."""

    def __init__(self, episodes: Sequence[Followed] = ()) -> None:
        self._all, self._instructions, self._sources = _Record(), defaultdict(_Record), defaultdict(_Record)
        self._sureness = 0.0  # summed over episodes
        self._inputs: list[np.ndarray] = []  # of each episode the mean over its decisions: each counts once
        self._ended: list[bool] = []
        self._weights: np.ndarray | None = None
        for episode in episodes:
            self.add(episode)

    @property
    def episodes(self) -> int:
        """That it has learned from."""
        return len(self._ended)

    def add(self, episode: Followed) -> None:
        """Learn from one more."""
        self._inputs.append(self._input(episode).mean(axis=0))
        self._ended.append(episode.success)
        self._weights = None
        self._all.add(episode.success)
        self._sureness += float(_logit(episode.confidence).mean())
        self._instructions[episode.instruction].add(episode.success)
        for source, count in Counter(episode.sources).items():
            self._sources[source].add(episode.success, count / len(episode.sources))

    def __call__(self, episode: Followed) -> np.ndarray | None:
        """At each decision the chance that the episode succeeds, (n,) in (0, 1); None after fewer than LEAST."""
        if self.episodes < LEAST:
            return None
        self.prepare()
        inputs = self._input(episode)
        return _share(inputs[:, 0] + self._weights[0] + inputs[:, 1:] @ self._weights[1:])

    def prepare(self) -> None:
        """Do now what else the first answer would wait for."""
        if self._weights is None and self.episodes >= LEAST:
            rows = np.array(self._inputs)
            self._weights = fit(rows[:, 1:], np.array(self._ended), rows[:, 0])

    def _input(self, episode: Followed) -> np.ndarray:
        """(n, 4): the logit of the share of all that succeeded, then by how much more each input promises."""
        # One success and one failure are taken for granted, so that no share is ever certain.
        overall = (self._all.successes + 1) / (self._all.episodes + 2)
        usual = self._sureness / self.episodes if self.episodes else 0.0
        told = self._instructions.get(episode.instruction, NOTHING).logit(overall)
        names, rows = np.unique(np.asarray(episode.sources), return_inverse=True)
        behind = np.array([self._sources.get(name, NOTHING).logit(overall) for name in names.tolist()])[rows]
        start = np.full(len(behind), _logit(overall))
        return np.column_stack([start, _logit(episode.confidence) - usual, behind - start, told - start])


class Outcomes:
    """What a bank's newest rollouts tell of following memory; each is read once."""

    def __init__(self, newest: int) -> None:
        self._newest = newest
        self._read: dict[str, Followed | None] = {}  # by payload
        self.chance, self.policy = Chance(), ""

    def learn(self, rollouts: Sequence[StoredRollout]) -> None:
        """From these, the oldest first, as far as they are of the policy of the last one and ended in success or
        failure. Raises BankCorruptionError, unless the reader skips what is corrupt; FileNotFoundError for what has
        been forgotten since; and OSError."""
        newest = rollouts[-self._newest :] if self._newest else ()
        ended = (Outcome.SUCCESS, Outcome.FAILURE)
        read = {}
        for rollout in newest:
            name, record = rollout.record.payload, rollout.record
            if record.outcome in ended and record.policy == newest[-1].record.policy:
                known = name in self._read
                read[name] = (
                    self._read[name] if known else rollout.cache.tolerate(rollout, rollout.followed, lost=False)
                )
        names, before = list(read), list(self._read)
        if names[: len(before)] != before:  # something is gone
            self.chance, before = Chance(), []
        for name in names[len(before) :]:
            if read[name]:
                self.chance.add(read[name])
        self._read, self.policy = read, newest[-1].record.policy if newest else ""
        self.chance.prepare()


def fit(inputs: np.ndarray, ended: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Weights (1 + F,), the constant first, of P(success) = 1 / (1 + exp(-(offset + w_0 + inputs w))), the likeliest
    under a normal prior of precision RIDGE. inputs: (N, F). ended: bool (N,), success. offset: (N,)."""
    x = np.column_stack([np.ones(len(inputs)), inputs])
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        chance = _share(offset + x @ weights)
        gradient = x.T @ (chance - ended) + RIDGE * weights
        curvature = x.T * (chance * (1 - chance)) @ x + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < CONVERGED:
            break
    return weights


def foretold(episodes: Sequence[Followed]) -> tuple[np.ndarray, np.ndarray]:
    """What it would have said in each episode, had it known those before, as the mean over decisions, and whether the
    episode succeeded: float64 and bool (N,), without the first ones, of which it says nothing."""
    chance, said, ended = Chance(), [], []
    for episode in episodes:
        if (foreseen := chance(episode)) is not None:
            said.append(float(foreseen.mean()))
            ended.append(episode.success)
        chance.add(episode)
    return np.array(said), np.array(ended, bool)


def _logit(share: np.ndarray | float) -> np.ndarray | float:
    share = np.clip(share, 1 - SURE, SURE)
    return np.log(share / (1 - share))


def _share(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
