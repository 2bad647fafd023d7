"""episode_manager: begins and ends episodes, and tells everybody through the latched topic `episode`."""

from __future__ import annotations

import uuid

from efn_ros.msg import BankChanged, EpisodeState, WorldState
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import EVENTS, LATCHED
from efn_ros.srv import Abort, EndEpisode, StartEpisode

JUDGED = (EpisodeState.OUTCOME_UNKNOWN, EpisodeState.OUTCOME_SUCCESS, EpisodeState.OUTCOME_FAILURE)


class EpisodeManager(EfnNode):
    """Services: start_episode, end_episode, abort. A simulated world ends its episodes itself, over `world_state`."""

    PARAMETERS = (
        Parameter("save_timeout_s", 10.0, "How long an episode waits for the memory to take it, seconds.", 0.1, 3600.0),
    )

    def setup(self) -> None:
        self._state = EpisodeState()
        self._save_timeout = self.timer(self.parameter("save_timeout_s"), self._on_save_timeout)
        self._save_timeout.cancel()
        self._out = self.publisher(EpisodeState, "episode", LATCHED)
        self.listen(WorldState, "world_state", self._on_world, EVENTS)
        self.listen(BankChanged, "bank_changed", self._on_bank, LATCHED)
        self.serve(StartEpisode, "start_episode", self._start)
        self.serve(EndEpisode, "end_episode", self._end_by_call)
        self.serve(Abort, "abort", self._abort)

    def start(self) -> None:
        self._publish()

    def _start(self, request, response):
        response.success, response.message = False, self._why_not(request)
        if not response.message:
            self._state = EpisodeState(
                episode_id=uuid.uuid4().hex,
                phase=EpisodeState.RUNNING,
                task=request.task,
                instruction=request.instruction,
                seed=request.seed,
                correct=request.correct,
                record=request.record,
            )
            self._publish()
            response.success = True
        response.episode_id = self._state.episode_id
        return response

    def _why_not(self, request) -> str:
        if not self.active:
            return "episode_manager is not active"
        if not request.instruction.strip():
            return "the instruction is empty; say what the robot is to do"
        if self._state.phase == EpisodeState.RUNNING:
            return f"episode {self._state.episode_id} is running; end or abort it first"
        if self._waits_for_memory():
            return f"episode {self._state.episode_id} is not remembered yet; try again"
        return ""

    def _on_world(self, world: WorldState) -> None:
        if world.episode_id == self._state.episode_id and (world.success or world.truncated):
            outcome = EpisodeState.OUTCOME_SUCCESS if world.success else EpisodeState.OUTCOME_FAILURE
            self._end(outcome, world.control_step, world.decisions)

    def _on_bank(self, bank: BankChanged) -> None:
        if bank.episode_id and bank.episode_id == self._state.episode_id and not self._state.saved:
            self._settle(bank.unsaved)

    def _on_save_timeout(self) -> None:
        if self._waits_for_memory():
            self._settle(f"bank_writer said nothing of it within {self.parameter('save_timeout_s'):g} s")

    def _waits_for_memory(self) -> bool:
        state = self._state
        return state.phase == EpisodeState.ENDED and state.record and not (state.saved or state.unsaved)

    def _settle(self, unsaved: str) -> None:
        """The episode is in the memory, or never will be, for the reason in `unsaved`."""
        self._save_timeout.cancel()
        self._state.saved, self._state.unsaved = not unsaved, unsaved
        self._publish()

    def _end_by_call(self, request, response):
        if request.outcome not in JUDGED:
            response.success = False
            response.message = f"outcome {request.outcome} is none of {', '.join(map(str, JUDGED))}, see EpisodeState"
            return response
        return self._answer(response, request.outcome)

    def _abort(self, request, response):
        self.get_logger().warning(f"episode {self._state.episode_id} aborted: {request.reason or 'no reason given'}")
        return self._answer(response, EpisodeState.OUTCOME_ABORTED)

    def _answer(self, response, outcome: int):
        response.success = self._end(outcome)
        response.message = "" if response.success else "no episode is running"
        response.episode_id = self._state.episode_id
        return response

    def _end(self, outcome: int, length: int = 0, decisions: int = 0) -> bool:
        if self._state.phase != EpisodeState.RUNNING:
            return False
        self._state.phase, self._state.outcome = EpisodeState.ENDED, outcome
        self._state.length, self._state.decisions = length, decisions
        self._save_timeout.reset()
        self._publish()
        return True

    def _publish(self) -> None:
        self._state.stamp = self.get_clock().now().to_msg()
        self._out.publish(self._state)


def main() -> None:
    run(lambda: EpisodeManager("episode_manager"))
