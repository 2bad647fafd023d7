# SPDX-License-Identifier: MIT
"""episode_manager: begin and end episodes, and publish the present one."""

from __future__ import annotations

import uuid
from typing import Any

from rclpy.action.server import CancelResponse, ServerGoalHandle
from rclpy.task import Future

from efn_ros.action import RunEpisode
from efn_ros.msg import BankChanged, CorrectedAction, EpisodeState, WorldState
from efn_ros.ros.episodes import NOT_SAVED_YET
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import EVENTS, LATCHED, STEPS
from efn_ros.srv import AbortEpisode, EndEpisode, StartEpisode
from efn_ros.types import Mode

OUTCOMES = (EpisodeState.OUTCOME_UNKNOWN, EpisodeState.OUTCOME_SUCCESS, EpisodeState.OUTCOME_FAILURE)


class EpisodeManager(EfnNode):
    """Begin and end episodes, and publish the present one.

    Subscribes: `world_state`, by which a simulated world ends its episodes; `bank_changed`, `corrected_action`.
    Publishes: `episode` (latched).
    Services: `start_episode`, `end_episode`, `abort`.
    Actions: `run_episode`, one episode with feedback; cancelling aborts it.
    """

    OPTIONAL_TOPICS = ("world_state",)  # of simulated worlds
    PARAMETERS = (
        Parameter("save_timeout_s", 10.0, "Longest wait for the bank to save an ended episode, s.", 0.1, 3600.0),
    )

    _goal: ServerGoalHandle | None = None  # of the action whose episode is running

    def setup(self) -> None:
        """Offer the services and the action."""
        self._state = EpisodeState()
        self._actions, self._corrected = 0, 0  # actions of the episode so far, and those with a residual
        self._settled = Future()  # done when the episode is saved, or cannot be
        self._settled.set_result(None)
        self._save_timeout = self.timer(self.parameter("save_timeout_s"), self._on_save_timeout)
        self._save_timeout.cancel()
        self._out = self.publisher(EpisodeState, "episode", LATCHED)
        self.subscribe(WorldState, "world_state", self._on_world, EVENTS)
        self.subscribe(BankChanged, "bank_changed", self._on_bank, LATCHED)
        self.subscribe(CorrectedAction, "corrected_action", self._on_action, STEPS)
        self.serve(StartEpisode, "start_episode", self._start)
        self.serve(EndEpisode, "end_episode", self._end_by_service)
        self.serve(AbortEpisode, "abort", self._abort)
        self.serve_action(RunEpisode, "run_episode", self._run_episode, self._cancel)

    def start(self) -> None:
        """Publish that there is no episode yet."""
        self._publish()

    def teardown(self) -> None:
        """End the action whose episode is running."""
        if self._goal is not None:
            self._goal.abort()
            self._goal = None

    # Start.

    def _start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        response.message = self._begin(request)
        response.success = not response.message
        response.episode_id = self._state.episode_id
        return response

    def _begin(self, request: StartEpisode.Request | RunEpisode.Goal) -> str:
        """Begin an episode; return why it is refused, or an empty text."""
        if not self.active:
            return "episode_manager is not active"
        if not request.instruction.strip():
            return "the instruction is empty; describe what the robot should do"
        if self._state.phase == EpisodeState.RUNNING:
            return f"episode {self._state.episode_id} is running; end or abort it first"
        if not self._settled.done():
            return f"episode {self._state.episode_id} {NOT_SAVED_YET}; try again"
        self._state = EpisodeState(
            episode_id=uuid.uuid4().hex,
            phase=EpisodeState.RUNNING,
            task=request.task,
            instruction=request.instruction,
            seed=request.seed,
            correct=request.correct,
            record=request.record,
        )
        self._actions, self._corrected, self._settled = 0, 0, Future()
        self._publish()
        return ""

    # Action.

    async def _run_episode(self, goal: ServerGoalHandle) -> RunEpisode.Result:
        if self._state.phase == EpisodeState.ENDED:
            await self._settled
        reason = self._begin(goal.request)
        if reason:
            goal.abort()
            return RunEpisode.Result(outcome=EpisodeState.OUTCOME_ABORTED, message=reason)
        self._goal = goal
        await self._settled
        self._goal, state = None, self._state
        if goal.is_cancel_requested:
            goal.canceled()
        elif state.outcome == EpisodeState.OUTCOME_ABORTED:
            goal.abort()
        else:
            goal.succeed()
        return RunEpisode.Result(
            episode_id=state.episode_id,
            outcome=state.outcome,
            length=state.length,
            decisions=state.decisions or self._actions,
            saved=state.saved,
            message=state.not_saved_reason,
        )

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        if self._goal is None or goal.goal_id != self._goal.goal_id:
            return CancelResponse.REJECT
        self._end(EpisodeState.OUTCOME_ABORTED)
        return CancelResponse.ACCEPT

    def _on_action(self, action: CorrectedAction) -> None:
        if action.context.episode_id != self._state.episode_id or self._state.phase != EpisodeState.RUNNING:
            return
        self._actions += 1
        self._corrected += action.mode == CorrectedAction.CORRECTED
        if self._goal is not None and self._goal.is_active:
            self._goal.publish_feedback(
                RunEpisode.Feedback(
                    episode_id=self._state.episode_id,
                    decisions=self._actions,
                    corrected=self._corrected,
                    confidence=action.confidence,
                    mode=Mode(action.mode).name.lower(),
                )
            )

    # End.

    def _on_world(self, world: WorldState) -> None:
        if world.episode_id == self._state.episode_id and (world.success or world.truncated):
            outcome = EpisodeState.OUTCOME_SUCCESS if world.success else EpisodeState.OUTCOME_FAILURE
            self._end(outcome, world.control_step, world.decisions)

    def _end_by_service(self, request: EndEpisode.Request, response: EndEpisode.Response) -> EndEpisode.Response:
        if request.outcome not in OUTCOMES:
            response.success = False
            response.message = f"outcome {request.outcome} is none of {', '.join(map(str, OUTCOMES))}, see EpisodeState"
            return response
        return self._serve_end(response, request.outcome)

    def _abort(self, request: AbortEpisode.Request, response: AbortEpisode.Response) -> AbortEpisode.Response:
        self.get_logger().warning(f"episode {self._state.episode_id} aborted: {request.reason or 'no reason given'}")
        return self._serve_end(response, EpisodeState.OUTCOME_ABORTED)

    def _serve_end(self, response: Any, outcome: int) -> Any:
        response.success = self._end(outcome)
        response.message = "" if response.success else "no episode is running"
        response.episode_id = self._state.episode_id
        return response

    def _end(self, outcome: int, length: int = 0, decisions: int = 0) -> bool:
        if self._state.phase != EpisodeState.RUNNING:
            return False
        self._state.phase, self._state.outcome = EpisodeState.ENDED, outcome
        self._state.length, self._state.decisions = length, decisions
        if self._state.record and not self._state.not_saved_reason:
            self._save_timeout.reset()
        else:
            self._settled.set_result(None)
        self._publish()
        return True

    # Saving.

    def _on_bank(self, bank: BankChanged) -> None:
        if bank.episode_id and bank.episode_id == self._state.episode_id and not self._state.saved:
            self._settle(bank.not_saved_reason)

    def _on_save_timeout(self) -> None:
        self._save_timeout.cancel()
        if not self._settled.done():
            self._settle(f"bank_writer published nothing about it within {self.parameter('save_timeout_s'):g} s")

    def _settle(self, not_saved_reason: str) -> None:
        """Note that the episode is saved, or the reason why it cannot be."""
        self._save_timeout.cancel()
        self._state.saved, self._state.not_saved_reason = not not_saved_reason, not_saved_reason
        if self._state.phase == EpisodeState.ENDED and not self._settled.done():
            self._settled.set_result(None)
        self._publish()

    def _publish(self) -> None:
        self._state.stamp = self.get_clock().now().to_msg()
        self._out.publish(self._state)


def main() -> None:
    """Run the node."""
    run(lambda: EpisodeManager("episode_manager"))
