# SPDX-License-Identifier: MIT
"""Whole episodes over real processes: one corrected action for every image, held when late, stopped when asked."""

from __future__ import annotations

import itertools
import signal

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction, EpisodeState, ObservationStamped, PolicyStepStamped, WorldState
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from efn_ros.ros.conversions import chunk_from_msg
from efn_ros.ros.fields import from_time
from efn_ros.ros.qos import EVENTS, LOSSLESS_SENSOR_DATA, STEPS

pytestmark = [pytest.mark.integration, pytest.mark.simulator, pytest.mark.alone]

DECISIONS, HORIZON = 50, 200  # of an episode that does not succeed: 200 control steps, four at a time


def keys(messages) -> list[tuple[str, int, int]]:
    """Episode, step and source stamp of each."""
    return [(m.context.episode_id, m.context.step, from_time(m.context.header.stamp)) for m in messages]


def test_every_image_becomes_exactly_one_corrected_action_and_the_episode_is_stored(start):
    graph = start({"metaworld_bridge": {"retry_s": 60.0}})
    images = {side: graph.collect(Image, f"camera/{side}/image", LOSSLESS_SENSOR_DATA) for side in ("left", "right")}
    world = graph.collect(WorldState, "world_state", EVENTS)
    topics = {"observation": ObservationStamped, "policy_step": PolicyStepStamped, "corrected_action": CorrectedAction}
    seen = {topic: graph.collect(kind, topic, STEPS) for topic, kind in topics.items()}

    for number, (task, seed) in enumerate((("reach", 3), ("drawer-close", 4)), start=1):
        for messages in (*images.values(), *seen.values(), world):
            messages.clear()
        record = graph.run_episode(task, seed)
        episode = record.state
        graph.spin_until(lambda: graph.client.bank.episode_id == episode.episode_id, "bank_changed has not come")  # noqa: B023
        # Topics overtake one another: wait for the last message of each, and a little for one too many.
        everything = (*images.values(), *seen.values(), world)
        graph.spin_until(lambda: min(map(len, everything)) >= episode.decisions, "a message has not come")  # noqa: B023
        graph.spin_for(0.3)

        assert episode.phase == EpisodeState.ENDED and episode.saved and (episode.task, episode.seed) == (task, seed)
        assert episode.outcome in (EpisodeState.OUTCOME_SUCCESS, EpisodeState.OUTCOME_FAILURE)
        expected = keys(seen["corrected_action"])
        assert [step for _, step, _ in expected] == list(range(episode.decisions))
        assert {episode_id for episode_id, _, _ in expected} == {episode.episode_id}
        for topic in ("observation", "policy_step"):
            assert keys(seen[topic]) == expected, topic
        for side, messages in images.items():
            assert [from_time(m.header.stamp) for m in messages] == [stamp for *_, stamp in expected], side
        for observation, action in zip(seen["observation"], seen["corrected_action"], strict=True):
            assert (action.context.task, action.context.instruction) == (task, observation.context.instruction)
            assert from_time(observation.context.header.stamp) <= from_time(observation.created)
            assert from_time(observation.created) <= from_time(action.received) <= from_time(action.created)
        assert [w.decisions for w in world] == list(range(1, episode.decisions + 1))
        assert world[-1].control_step == episode.length and world[-1].held_steps == 0
        assert world[-1].success == record.success and world[-1].truncated != world[-1].success

        rollouts = graph.rollouts()
        assert len(rollouts) == number
        stored = rollouts[-1]
        assert stored.record.id == episode.episode_id
        assert (stored.record.decisions, stored.record.length) == (episode.decisions, episode.length)
        assert stored.record.outcome == episode.outcome
        assert [*stored.arrays.stamps_ns] == [stamp for *_, stamp in expected]
        executed = np.stack([chunk_from_msg(action.corrected) for action in seen["corrected_action"]])
        np.testing.assert_array_equal(stored.arrays.executed, executed)
        changed = graph.client.bank
        assert (changed.revision, changed.rollouts) == (number, number)
        assert changed.steps == sum(rollout.record.decisions for rollout in rollouts)


def test_an_episode_that_is_not_to_be_recorded_or_corrected_is_neither(start):
    graph = start({"episode_manager": {"save_timeout_s": 1.0}})
    record = graph.run_episode(record=False, correct=False)
    assert len(record.actions) == record.state.decisions == DECISIONS
    assert {(a.mode, a.reason) for a in record.actions} == {(CorrectedAction.BASE, "correction is off")}
    assert not record.state.saved and not graph.rollouts()

    episode_id = graph.start_episode()
    graph.client.abort("the test says so")
    graph.spin_until(lambda: graph.has_ended(episode_id), "the aborted episode has not ended")
    assert graph.client.episode.outcome == EpisodeState.OUTCOME_ABORTED
    with pytest.raises(RuntimeError, match="instruction is empty"):
        graph.client.start_episode("reach", " ", 0)
    with pytest.raises(RuntimeError, match="is running; end or abort it first"):
        graph.start_episode()
        graph.start_episode()


def test_in_realtime_the_world_holds_while_the_policy_is_late_and_goes_on_after(start):
    graph = start({"metaworld_bridge": {"pacing": "realtime"}, "camera_ingest": {"lossless": False}})
    world = graph.collect(WorldState, "world_state", EVENTS)
    actions = graph.collect(CorrectedAction, "corrected_action", STEPS)

    episode_id = graph.start_episode()
    graph.spin_until(lambda: len(actions) > 5, "no actions")
    graph.send_signal("vla_policy", signal.SIGSTOP)
    try:
        begun = world[-1]
        graph.spin_until(lambda: world[-1].held_steps >= begun.held_steps + 24, "the world does not hold")
        held = world[-1]
        assert held.control_step > begun.control_step + 24 and not graph.has_ended(episode_id)
        answered = len(actions)
    finally:
        graph.send_signal("vla_policy", signal.SIGCONT)
    graph.spin_until(lambda: len(actions) > answered + 5, "no actions after the policy went on")
    graph.spin_until(lambda: graph.has_ended(episode_id), "the episode has not ended")
    graph.spin_until(lambda: world[-1].truncated or world[-1].success, "the world has not said how it ended")

    end = world[-1]
    assert graph.client.episode.length == end.control_step <= HORIZON
    assert end.held_steps < end.control_step, "every step was held"
    assert end.decisions > answered, "no action that came after the pause was executed"
    assert [w.held_steps for w in world] == sorted(w.held_steps for w in world)


def test_after_a_stop_every_action_holds_until_it_is_reset(start):
    graph = start()
    client = graph.client
    stop, reset = (client.node.create_client(Trigger, f"efn_corrector/{name}") for name in ("stop", "reset"))
    actions = graph.collect(CorrectedAction, "corrected_action", STEPS)

    def since(mode: int) -> list[CorrectedAction]:
        """What came from the first action of a mode on; those before it were under way when it was asked for."""
        return list(itertools.dropwhile(lambda action: action.mode != mode, actions))

    episode_id = graph.start_episode()
    graph.spin_until(lambda: len(actions) >= 3, "no actions")
    assert client.call(stop, Trigger.Request()).success
    graph.spin_until(lambda: len(since(CorrectedAction.STOPPED)) >= 8, "no actions after the stop")
    assert "stopped by the operator" in _state(graph)
    stopped = since(CorrectedAction.STOPPED)
    assert {a.mode for a in stopped} == {CorrectedAction.STOPPED}
    assert {a.reason for a in stopped} == {"stopped by the operator"}
    for action in stopped:
        held = chunk_from_msg(action.corrected)
        assert not held[:, :3].any(), "the hand was to stay where it is"
        assert (held[:, 3] == held[0, 3]).all(), "the gripper was to keep what it holds"

    assert client.call(reset, Trigger.Request()).success
    actions.clear()
    graph.spin_until(lambda: len(since(CorrectedAction.BASE)) >= 3, "no actions after the reset")
    assert {a.mode for a in since(CorrectedAction.BASE)} == {CorrectedAction.BASE}
    client.abort("enough was seen")
    graph.spin_until(lambda: graph.has_ended(episode_id), "the episode has not ended")


def _state(graph) -> str:
    graph.spin_for(0.6)
    return graph.client.statuses["efn_corrector: state"].message
