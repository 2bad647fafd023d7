# SPDX-License-Identifier: MIT
"""LIBERO through its own graph."""

from __future__ import annotations

import pytest
from efn_ros.msg import CorrectedAction, EpisodeState, ObservationStamped
from efn_ros.srv import EndEpisode

from efn_ros.ros.qos import STEPS
from efn_ros.types import Outcome
from efn_ros.worlds.libero_files import SUITES, find_files
from efn_ros.worlds.registry import world_tasks

pytestmark = [pytest.mark.integration, pytest.mark.simulator]

DECISIONS = 4


@pytest.fixture
def tasks() -> dict[str, str]:
    try:
        find_files(None, SUITES)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    return world_tasks("libero")


def test_tasks_of_both_suites_run_are_judged_by_the_operator_and_stored(start, tasks):
    graph = start(name="libero_sim", base={})
    actions = graph.collect(CorrectedAction, "corrected_action", STEPS)
    observations = graph.collect(ObservationStamped, "observation", STEPS)
    end = graph.client.node.create_client(EndEpisode, "end_episode")

    for number, suite in enumerate(SUITES, start=1):
        task = next(name for name in tasks if name.startswith(f"{suite}/"))
        actions.clear()
        observations.clear()
        episode_id = graph.start_episode(task, instruction=tasks[task])
        graph.spin_until(lambda: len(actions) >= DECISIONS, f"no actions in {task}", 240.0)
        assert graph.client.call(end, EndEpisode.Request(outcome=EpisodeState.OUTCOME_SUCCESS)).success
        graph.spin_until(lambda: graph.client.episode.saved, f"{task} is not remembered")

        assert [a.context.step for a in actions[:DECISIONS]] == list(range(DECISIONS))
        assert {(a.corrected.horizon, a.corrected.action_size) for a in actions} == {(4, 7)}
        assert [*observations[0].cameras] == ["agentview", "wrist"] and len(observations[0].proprio) == 8
        assert {(i.height, i.width) for i in observations[0].images} == {(96, 96)}
        stored = graph.rollouts()
        assert len(stored) == number
        record = stored[-1].record
        assert (record.id, record.task, record.instruction) == (episode_id, task, tasks[task])
        assert record.outcome == Outcome.SUCCESS and record.robot == "franka_simulated"
        assert record.decisions >= DECISIONS
