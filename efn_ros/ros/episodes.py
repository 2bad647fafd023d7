"""From the news of an episode to its rollout: what `bank_writer` does live, and an import out of a recording."""

from __future__ import annotations

from efn_ros.bank import RolloutRecorder
from efn_ros.msg import EpisodeState
from efn_ros.ros import conversions
from efn_ros.types import Outcome, Rollout

EMPTY, MISSED = "it held no whole step", "its beginning was missed"  # why an episode is not in the bank
NOT_SAVED_YET = "is not in the bank yet"  # in the refusal to begin an episode, where trying again helps


def begin(recorder: RolloutRecorder, episode: EpisodeState, robot: str) -> None:
    """Start collecting an episode that has begun. robot: that is remembered with it."""
    recorder.begin(
        episode.episode_id,
        robot=robot,
        task=episode.task,
        instruction=episode.instruction,
        seed=episode.seed,
        start_ns=conversions.from_time(episode.stamp),
    )


def finish(recorder: RolloutRecorder, episode: EpisodeState) -> tuple[Rollout | None, str]:
    """The rollout of an episode, or why there is none. episode: the last that was said of it; without an end it was
    aborted. A first decision that nobody answered in time is a gap; one of which nothing was heard is a beginning
    that was missed. Raises ValueError for an outcome that is none."""
    first = recorder.first
    outcome = Outcome(episode.outcome) if episode.phase == EpisodeState.ENDED else Outcome.ABORTED
    rollout = recorder.finish(outcome, length=episode.length or recorder.complete)
    if rollout is None:
        return None, EMPTY
    if first:
        return None, MISSED
    return rollout, ""
