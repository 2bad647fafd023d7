# SPDX-License-Identifier: MIT
"""kill -9 of a node in mid-episode: the robot goes on, the node comes back, and the bank stays whole."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction, EpisodeState
from harness import TRUSTING, RunningGraph, load_graph, store_successes

from efn_ros.bank import BankReader
from efn_ros.ros.bringup import EARLY_S
from efn_ros.ros.qos import STEPS
from efn_ros.types import Outcome

pytestmark = [pytest.mark.integration, pytest.mark.simulator, pytest.mark.alone]

DECISIONS = 50  # of an episode that does not succeed
LOST_MEMORY = {"experience_retrieval is not running", "memory did not answer within its deadline"}


def test_without_its_memory_the_loop_goes_on_with_base_actions_until_it_is_back(start, tmp_path: Path):
    settings = {"efn_corrector": {"min_confidence": 0.0, "deadline_s": 2.0}, "experience_retrieval": {"argmax": True}}
    store_successes(load_graph(tmp_path, settings), [tmp_path / "bank"], [("reach", 100)])
    graph = start(settings)
    actions = graph.collect(CorrectedAction, "corrected_action", STEPS)

    episode_id = graph.start_episode(record=False)
    graph.spin_until(lambda: len(actions) >= 8, "no actions")
    assert actions[-1].mode == CorrectedAction.CORRECTED, actions[-1].reason
    killed = graph.send_signal("experience_retrieval", signal.SIGKILL)
    graph.spin_until(lambda: graph.has_ended(episode_id) and len(actions) == DECISIONS, "the episode has not ended")
    assert [a.context.step for a in actions] == list(range(DECISIONS))
    lost = [a for a in actions if a.reason in LOST_MEMORY]
    assert lost
    for action in lost:
        assert action.mode == CorrectedAction.BASE and math.isnan(action.recall_s)
        assert action.corrected.data == action.base.data and not np.any(action.residual.data)

    graph.wait_restarted("experience_retrieval", killed)
    for seed in range(1, 6):
        actions.clear()
        graph.run_episode(seed=seed, record=False)
        if actions[-1].mode == CorrectedAction.CORRECTED:
            break
    assert actions[-1].mode == CorrectedAction.CORRECTED, actions[-1].reason
    assert not math.isnan(actions[-1].recall_s)


def test_a_camera_ingest_that_was_killed_goes_on_with_the_next_decision(start):
    graph = start({"metaworld_bridge": {"retry_s": 0.5}})
    actions = graph.collect(CorrectedAction, "corrected_action", STEPS)
    graph.start_episode()
    graph.spin_until(lambda: len(actions) >= 8, "no actions")
    killed = graph.send_signal("camera_ingest", signal.SIGKILL)
    graph.wait_restarted("camera_ingest", killed)
    graph.spin_until(lambda: graph.client.episode.saved, "the episode is not remembered")
    graph.spin_until(lambda: len(actions) >= DECISIONS, "an action has not come")
    assert [action.context.step for action in actions] == list(range(DECISIONS))
    (rollout,) = graph.rollouts()
    assert rollout.record.decisions == DECISIONS


def test_an_episode_that_leaves_nothing_is_settled_at_once(start):
    graph = start({"episode_manager": {"save_timeout_s": 600.0}}, ready=False, only=["episode_manager", "bank_writer"])
    graph.wait_active("episode_manager", "bank_writer")
    for _ in range(3):  # a writer that has just begun may not have found the manager yet, and misses a beginning
        episode_id = graph.start_episode()
        graph.client.abort("nothing has come yet")
        graph.spin_until(lambda: bool(graph.client.episode.not_saved_reason), "it is not said whether it is remembered")
        assert (graph.client.episode.episode_id, graph.client.episode.saved) == (episode_id, False)
        if graph.client.episode.not_saved_reason == "it has no complete decision":
            return
    raise AssertionError(graph.client.episode.not_saved_reason)


def test_bank_writer_killed_at_any_moment_leaves_a_whole_bank(start):
    graph = start(TRUSTING, {"episode_manager": {"save_timeout_s": 3.0}})
    lengths: dict[str, int] = {}  # of the episodes that have ended, in control steps
    rng = np.random.default_rng(0)
    for attempt in range(4):
        if attempt == 2:  # what dies three times in a row soon after its start is not restarted any more
            graph.spin_for(EARLY_S)
        episode_id = graph.start_episode(seed=attempt)
        if attempt % 2 == 0:  # while it records
            graph.spin_for(rng.uniform(0.2, 2.0))
        else:  # while it writes
            graph.spin_until(lambda: graph.has_ended(episode_id), "the episode has not ended")  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.06))
        killed = graph.send_signal("bank_writer", signal.SIGKILL)
        check_bank(graph, lengths)
        graph.spin_until(lambda: graph.has_ended(episode_id), "the episode has not ended")  # noqa: B023
        lengths[episode_id] = graph.client.episode.length
        graph.wait_restarted("bank_writer", killed)
        check_bank(graph, lengths)

    # A writer that has just come back may not have found every node yet: the first of these may be lost, no other.
    for seed in (10, 11, 12):
        episode_id = graph.start_episode(seed=seed)
        graph.spin_until(lambda: graph.has_ended(episode_id), "the episode has not ended")  # noqa: B023
        lengths[episode_id] = graph.client.episode.length
        graph.spin_until(lambda: settled(graph.client.episode), "it is not said whether it is remembered")
        check_bank(graph, lengths)
    assert [rollout.record.seed for rollout in graph.rollouts()][-2:] == [11, 12]


def settled(episode: EpisodeState) -> bool:
    return episode.saved or bool(episode.not_saved_reason)


def check_bank(graph: RunningGraph, lengths: dict[str, int]) -> None:
    """The bank opens, every payload is the one that was written, and no rollout lacks anything of its episode."""
    reader = BankReader(graph.bank)
    snapshot = reader.snapshot()
    assert not snapshot.skipped
    known = {**lengths, graph.client.episode.episode_id: graph.client.episode.length}
    for rollout in snapshot.rollouts:
        record = rollout.record
        assert record.id in known
        assert record.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
        assert [*rollout.arrays.steps] == list(range(record.decisions)), "decisions are missing"
        assert record.decisions == math.ceil(record.length / 4)
        if graph.client.episode.phase == EpisodeState.ENDED or record.id in lengths:
            assert record.length == known[record.id]
        for step in (0, record.decisions - 1):
            assert rollout.sketches(step)[0].q.any()
            assert reader.image(record.id, step, "left").any()
