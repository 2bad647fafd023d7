# SPDX-License-Identifier: MIT
"""Rollouts from messages of an episode, for `bank_writer` in a running graph and for the import of a recording."""

from __future__ import annotations

from efn_ros.bank import RolloutRecorder
from efn_ros.msg import EpisodeState
from efn_ros.ros.fields import from_time
from efn_ros.types import Outcome, Rollout

EMPTY, MISSED = "it has no complete decision", "its start was missed"  # why an episode is not in the bank
NOT_SAVED_YET = "is not in the bank yet"  # part of the refusal of a new episode that may be tried again


def begin(recorder: RolloutRecorder, episode: EpisodeState, robot: str) -> None:
    """Start to record an episode of a robot."""
    recorder.begin(
        episode.episode_id,
        robot=robot,
        task=episode.task,
        instruction=episode.instruction,
        seed=episode.seed,
        start_ns=from_time(episode.stamp),
    )


def finish(recorder: RolloutRecorder, episode: EpisodeState) -> tuple[Rollout | None, str]:
    """Return the rollout of an episode, or None and why.

    A first decision without a timely correction is a gap; one without any message is a missed start.

    Args:
        recorder: Has recorded the episode.
        episode: The last published state of the episode; one that did not end was aborted.

    Raises:
        ValueError: The outcome is unknown.
    """
    first = recorder.first
    outcome = Outcome(episode.outcome) if episode.phase == EpisodeState.ENDED else Outcome.ABORTED
    rollout = recorder.finish(outcome, length=episode.length or recorder.complete)
    if rollout is None:
        return None, EMPTY
    return (None, MISSED) if first else (rollout, "")
