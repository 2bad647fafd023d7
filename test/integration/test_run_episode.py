# SPDX-License-Identifier: MIT
"""An episode as a ROS 2 action: feedback while it runs, its outcome as the result, an end when it is cancelled."""

from __future__ import annotations

import pytest
from action_msgs.msg import GoalStatus
from efn_ros.action import RunEpisode
from efn_ros.msg import EpisodeState
from harness import EPISODE_S, READY_S, TRUSTING, RunningGraph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient

from efn_ros.worlds.metaworld import TASKS

pytestmark = [pytest.mark.integration, pytest.mark.simulator]


class Runner:
    """A client of the action."""

    def __init__(self, graph: RunningGraph) -> None:
        self._graph = graph
        self._client = ActionClient(graph.client.node, RunEpisode, "run_episode")
        self.feedback: list[RunEpisode.Feedback] = []
        graph.spin_until(self._client.server_is_ready, "run_episode is not offered")

    def send(self, task: str = "reach", seed: int = 0, instruction: str | None = None, **flags: bool):
        """Send a goal; returns its handle."""
        words = TASKS[task] if instruction is None else instruction
        goal = RunEpisode.Goal(task=task, instruction=words, seed=seed, **{"correct": True, "record": True, **flags})
        return self._wait(self._client.send_goal_async(goal, lambda message: self.feedback.append(message.feedback)))

    def result(self, handle) -> tuple[int, RunEpisode.Result]:
        """Wait for the status and the result of a goal."""
        response = self._wait(handle.get_result_async())
        return response.status, response.result

    def cancel(self, handle) -> int:
        """Cancel a goal; returns how many are cancelling."""
        return len(self._wait(handle.cancel_goal_async()).goals_canceling)

    def _wait(self, future):
        self._graph.spin_until(future.done, "the action does not answer", EPISODE_S)
        return future.result()


@pytest.fixture
def runner(start) -> tuple[RunningGraph, Runner]:
    graph = start(TRUSTING)
    return graph, Runner(graph)


def test_a_goal_runs_a_whole_episode_and_its_result_is_what_the_bank_holds(runner):
    graph, runner = runner
    for number, seed in enumerate((4, 5), start=1):  # at once: the second waits until the first is in the bank
        runner.feedback.clear()
        status, result = runner.result(runner.send("drawer-close", seed))
        assert status == GoalStatus.STATUS_SUCCEEDED and result.saved and not result.message
        assert result.outcome in (EpisodeState.OUTCOME_SUCCESS, EpisodeState.OUTCOME_FAILURE)

        stored = graph.rollouts()
        assert len(stored) == number
        record = stored[-1].record
        assert record.id == result.episode_id and record.seed == seed and record.outcome == result.outcome
        assert (record.length, record.decisions) == (result.length, result.decisions)

        told = runner.feedback
        assert {message.episode_id for message in told} == {result.episode_id}
        assert [message.decisions for message in told] == list(range(1, len(told) + 1))
        assert result.decisions - 1 <= len(told) <= result.decisions + 1, "one message of feedback an action"
    assert {message.mode for message in told} == {"corrected"} and told[-1].corrected == len(told)
    assert all(0.0 < message.confidence <= 1.0 for message in told), "memory of the first serves the second"


def test_cancelling_aborts_the_episode_and_the_next_can_begin(runner):
    graph, runner = runner
    handle = runner.send()
    graph.spin_until(lambda: len(runner.feedback) >= 2, "no feedback")
    assert runner.cancel(handle) == 1
    status, result = runner.result(handle)
    assert status == GoalStatus.STATUS_CANCELED and result.outcome == EpisodeState.OUTCOME_ABORTED
    assert graph.client.episode.outcome == EpisodeState.OUTCOME_ABORTED
    assert 2 <= result.decisions < 50 and runner.cancel(handle) == 0, "it has ended"

    status, result = runner.result(runner.send("drawer-close"))
    assert status == GoalStatus.STATUS_SUCCEEDED and result.saved


def test_a_goal_that_cannot_begin_is_aborted_with_the_reason_and_one_that_is_ended_from_outside_too(runner):
    graph, runner = runner
    status, result = runner.result(runner.send(instruction=" "))
    assert status == GoalStatus.STATUS_ABORTED and not result.episode_id
    assert "the instruction is empty" in result.message

    handle = runner.send(record=False)
    status, result = runner.result(runner.send("drawer-close"))
    assert status == GoalStatus.STATUS_ABORTED and "is running; end or abort it first" in result.message
    graph.client.abort("the operator has seen enough")
    status, result = runner.result(handle)
    assert status == GoalStatus.STATUS_ABORTED and result.outcome == EpisodeState.OUTCOME_ABORTED and result.episode_id


def test_a_manager_that_is_cleaned_up_aborts_the_goal_and_serves_again_after(runner):
    graph, runner = runner
    change = graph.client.node.create_client(ChangeState, "episode_manager/change_state")

    def transition(number: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        return graph.client.call(change, request, READY_S).success

    handle = runner.send(record=False)
    graph.spin_until(lambda: runner.feedback, "no feedback")
    assert transition(Transition.TRANSITION_DEACTIVATE) and transition(Transition.TRANSITION_CLEANUP)
    graph.spin_until(lambda: handle.status == GoalStatus.STATUS_ABORTED, "the goal goes on")

    assert transition(Transition.TRANSITION_CONFIGURE) and transition(Transition.TRANSITION_ACTIVATE)
    status, result = Runner(graph).result(Runner(graph).send("drawer-close", record=False))
    assert status == GoalStatus.STATUS_SUCCEEDED and not result.saved
