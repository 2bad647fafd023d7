# SPDX-License-Identifier: MIT
"""Learning at work over real processes: what the bank holds is learned, accepted, switched to and undone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction, EpisodeState, ObservationStamped, PolicyStepStamped
from efn_ros.srv import EndEpisode
from harness import READY_S, RunningGraph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sample_work import CONFIG, PATTERN, PROJECTION, RECALL, checkpoint, patterned, rollout, store
from std_srvs.srv import Trigger

from efn_ros.ros.conversions import chunk_from_msg, observation_to_msg, policy_step_to_msg
from efn_ros.ros.qos import LATCHED_STEPS, STEPS
from efn_ros.types import StepContext

pytestmark = pytest.mark.integration

NODES = ("episode_manager", "experience_retrieval", "efn_corrector", "bank_writer", "efn_trainer")
REMEMBERED, MIN_NEW = 28, 30


def parameters(origin: Path) -> dict:
    learning = {name: value for name, value in asdict(CONFIG).items()} | {"min_new_rollouts": MIN_NEW}
    limits = {f"limits.{name}": [float("inf")] for name in ("velocity", "acceleration", "jerk", "reject")}
    limits |= {
        "limits.low": [-9.0] * 3,
        "limits.high": [9.0] * 3,
        "limits.residual": [0.5],
        "limits.holds_last": [False],
    }
    corrector = {"method": "learned", "checkpoint": str(origin), "gain": 1.0, "deadline_s": 10.0, "control_steps": 1}
    corrector["exploration.mode"] = "off"  # what is added is then what the network proposes
    return {
        "**": {"learn": True, "tokens_width": 24, "descriptor_size": 16, "projection_seed": 3},
        "experience_retrieval": {"k": RECALL.k, "random_steps": RECALL.random_steps, "codes": ""},
        "efn_corrector": {**corrector, **limits, "limits.measured": [-1]},
        "efn_trainer": learning,
    }


@dataclass
class Robot:
    """What camera_ingest and vla_policy would say, and the judge of every episode, played by the test."""

    graph: RunningGraph
    played: int = 0

    def __post_init__(self) -> None:
        client, create = self.graph.client, self.graph.client.node.create_publisher
        self._observations = create(ObservationStamped, "observation", LATCHED_STEPS)
        self._steps = create(PolicyStepStamped, "policy_step", LATCHED_STEPS)
        self._actions = self.graph.collect(CorrectedAction, "corrected_action", STEPS)
        self._end = client.node.create_client(EndEpisode, "end_episode")
        self._asked = {
            n: client.node.create_client(Trigger, f"efn_trainer/{n}") for n in ("candidates", "switch", "undo")
        }
        outputs = (self._observations, self._steps)
        self.graph.spin_until(lambda: all(out.get_subscription_count() for out in outputs), "nobody listens")

    def begin(self) -> str:
        self.played += 1
        episode = self.graph.start_episode("reach", self.played, instruction="reach the goal")
        self.graph.spin_for(0.3)  # of a real robot, an image has to be taken first
        return episode

    def decide(self, episode: str, step: int) -> np.ndarray:
        """One decision; what was added to the base, the mean over the chunk (A,)."""
        seen = rollout(1000 + self.played, PATTERN).steps[step]
        context = StepContext(episode, step, 1 + step, "reach", "reach the goal", self.played)
        policy_step = replace(seen.policy_step, context=context, policy="policy-1", projection=PROJECTION.identity)
        observation = observation_to_msg(replace(seen.observation, context=context), 1)
        count = len(self._actions)
        self._observations.publish(observation)
        self._steps.publish(policy_step_to_msg(policy_step, 1, 1))
        self.graph.spin_until(lambda: len(self._actions) > count, "no corrected action")
        action = self._actions[-1]
        assert (action.mode, action.reason, action.context.step) == (CorrectedAction.CORRECTED, "", step)
        return chunk_from_msg(action.residual).mean(axis=0)

    def succeed(self) -> None:
        client = self.graph.client
        request = EndEpisode.Request(outcome=EpisodeState.OUTCOME_SUCCESS)
        assert client.call(self._end, request).success
        self.graph.spin_until(
            lambda: client.episode.saved or client.episode.not_saved_reason, "the episode is not settled"
        )
        assert client.episode.saved, client.episode.not_saved_reason

    def run_episode(self) -> np.ndarray:
        """A whole episode of two decisions; what was added in the first."""
        episode = self.begin()
        added = [self.decide(episode, step) for step in (0, 1)]
        self.succeed()
        return added[0]

    def ask(self, service: str) -> str:
        answer = self.graph.client.call(self._asked[service], Trigger.Request())
        assert answer.success, answer.message
        return answer.message

    def fact(self, node: str, key: str) -> str:
        status = self.graph.client.statuses.get(f"{node}: state")
        return next((v.value for v in status.values if v.key == key), "") if status else ""

    def until(self, node: str, key: str, part: str) -> None:
        self.graph.spin_until(lambda: part in self.fact(node, key), f"{node} does not say {part!r}")


def test_what_the_bank_holds_is_learned_switched_to_with_the_next_episode_and_undone(start, tmp_path):
    bank, origin = store(tmp_path / "bank", patterned(REMEMBERED)), checkpoint(tmp_path / "origin")
    robot = Robot(start(parameters(origin), only=NODES, base={"**": {"diagnostics_period_s": 0.1}}))
    robot.until("efn_trainer", "learning", f"nothing to validate yet: {REMEMBERED} of {MIN_NEW} rollouts")
    while robot.played < 3:
        np.testing.assert_array_equal(robot.run_episode(), 0.0)
    robot.until("efn_trainer", "candidate", "candidate 1 is offered: error")
    assert len(robot.fact("efn_trainer", "losses").split(", ")) == CONFIG.epochs
    candidates = json.loads(robot.ask("candidates"))
    assert (candidates["current"], candidates["offered"]) == (0, [1])

    episode = robot.begin()
    robot.decide(episode, 0)
    assert "corrects from the next episode on" in robot.ask("switch")
    np.testing.assert_array_equal(robot.decide(episode, 1), 0.0)
    robot.succeed()
    assert robot.fact("efn_corrector", "checkpoint").startswith("0 ")

    np.testing.assert_allclose(robot.run_episode(), PATTERN, atol=0.12)
    robot.until("efn_corrector", "checkpoint", f"1 {candidates['checkpoints'][1]['fingerprint']}")
    robot.ask("undo")
    np.testing.assert_array_equal(robot.run_episode(), 0.0)
    robot.until("efn_corrector", "checkpoint", "0 ")

    entries = [json.loads(line) for line in (bank / "efn" / "switches.jsonl").read_text().splitlines()]
    assert [(e["from"], e["to"], e["who"]) for e in entries] == [(0, 1, "operator"), (1, 0, "undo")]
    niceness = Path(f"/proc/{robot.graph.bringup.process('efn_trainer').pid}/stat").read_text().rpartition(")")[2]
    assert niceness.split()[16] == "19"


def test_a_trainer_alone_reports_what_it_waits_for_and_goes_through_its_lifecycle_twice(start, tmp_path):
    graph = start(
        parameters(tmp_path / "origin"),
        only=["efn_trainer"],
        base={"**": {"diagnostics_period_s": 0.1}},
        ready=False,
        autostart=False,
    )
    client = graph.client.node.create_client(ChangeState, "efn_trainer/change_state")

    def learning() -> str:
        status = graph.client.statuses.get("efn_trainer: state")
        return next((v.value for v in status.values if v.key == "learning"), "") if status else ""

    for transition in (
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert graph.client.call(client, request, READY_S).success
    waits = "waits for the parameters of experience_retrieval and efn_corrector"
    graph.spin_until(lambda: learning() == waits, "it does not say what it waits for")
    undo = graph.client.node.create_client(Trigger, "efn_trainer/undo")
    answer = graph.client.call(undo, Trigger.Request())
    assert not answer.success and "is left to undo" in answer.message
