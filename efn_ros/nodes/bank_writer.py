"""bank_writer: turns what passes by into a rollout, and commits it when the episode has ended."""

from __future__ import annotations

import time
from pathlib import Path

from efn_ros.bank import BankError, BankReader, RolloutRecorder
from efn_ros.bank.store.filters import matching
from efn_ros.msg import BankChanged, CorrectedAction, EpisodeState, ObservationStamped, PolicyStepStamped
from efn_ros.ros import conversions, episodes
from efn_ros.ros.diagnostics import ERROR, OK
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import EVERY_KEPT_STEP, LATCHED
from efn_ros.runtime.factory import make_writer
from efn_ros.srv import ForgetRollouts


class BankWriterNode(EfnNode):
    """In: observation, policy_step, corrected_action, episode. Out: bank_changed. Service: ~/forget. The bank's only
    writer."""

    PARAMETERS = (
        Parameter("bank", "bank", "Directory of the experience bank."),
        Parameter("robot", "simulated", "Name of the robot, remembered with every rollout."),
        Parameter("tokens_width", 128, "Width of the policy's visual tokens.", 1, 65536),
        Parameter("descriptor_size", 128, "Width of keys and sketches, equation (30).", 8, 4096),
        Parameter("projection_seed", 0, "Seed of the projection.", 0),
        Parameter("image_quality", 90, "JPEG quality of remembered images.", 1, 100),
        Parameter(
            "retention.strategy",
            "keep_all",
            "Which rollouts go when the budget is exceeded: keep_all, reservoir, recency, success_shorter or diverse.",
        ),
        Parameter("retention.rollouts", 0, "Budget of the bank, rollouts; 0 is none.", 0),
        Parameter("retention.steps", 0, "Budget of the bank, decisions; 0 is none.", 0),
        Parameter("retention.megabytes", 0, "Budget of the bank's payloads, 10^6 bytes; 0 is none.", 0),
        Parameter("grace_s", 1.0, "Longest wait for the last steps of an ended episode, seconds.", 0.0, 60.0),
    )

    def setup(self) -> None:
        self._writer = make_writer(self.parameters(), self.parameter("bank"))
        self._recorder = RolloutRecorder()
        self._episode: EpisodeState | None = None
        self._out = self.publisher(BankChanged, "bank_changed", LATCHED)
        self._grace = self.timer(self.parameter("grace_s"), self._on_grace)
        self._grace.cancel()
        self.serve(ForgetRollouts, "~/forget", self._forget)
        self.listen(EpisodeState, "episode", self._on_episode, LATCHED)
        self.listen(
            ObservationStamped, "observation", lambda m: self._add(conversions.observation_from_msg(m)), EVERY_KEPT_STEP
        )
        self.listen(
            PolicyStepStamped, "policy_step", lambda m: self._add(conversions.policy_step_from_msg(m)), EVERY_KEPT_STEP
        )
        self.listen(
            CorrectedAction,
            "corrected_action",
            lambda m: self._add(conversions.correction_from_msg(m)),
            EVERY_KEPT_STEP,
        )

    def start(self) -> None:
        self._announce("", 0.0)

    def teardown(self) -> None:
        """An unfinished episode is not written: half a rollout would teach half a lesson."""
        if hasattr(self, "_writer"):
            self._writer.close()

    def _on_episode(self, episode: EpisodeState) -> None:
        if not episode.record or episode.saved or episode.not_saved_reason or not episode.episode_id:
            return
        if episode.phase == EpisodeState.RUNNING:
            if self._episode is not None:
                self._finish()
            self._episode = episode
            episodes.begin(self._recorder, episode, self.parameter("robot"))
        elif self._episode is not None and self._episode.episode_id == episode.episode_id:
            self._episode = episode
            self._grace.reset()
            self._finish_if_whole()
        elif episode.episode_id in self._writer:  # written by this node before it was restarted
            self._announce(episode.episode_id, 0.0)
        else:
            self._refuse(episode.episode_id, episodes.MISSED)

    def _add(self, item) -> None:
        """Also of an episode of which nothing was heard yet: its first steps may overtake that news."""
        if item.context.record:
            self._recorder.add(item)
            self._finish_if_whole()

    def _finish_if_whole(self) -> None:
        """Steps and the end of the episode travel on different topics, so the end may overtake the last steps."""
        ended = self._episode is not None and self._episode.phase == EpisodeState.ENDED
        if ended and self._episode.decisions and self._recorder.complete >= self._episode.decisions:
            self._finish()

    def _on_grace(self) -> None:
        self._grace.cancel()
        if self._episode is not None and self._episode.phase == EpisodeState.ENDED:
            self._finish()

    def _finish(self) -> None:
        self._grace.cancel()
        episode, self._episode = self._episode, None
        rollout, reason = episodes.finish(self._recorder, episode)
        self.diagnostics.counts["incomplete_steps"] += self._recorder.incomplete
        if rollout is None:
            self.diagnostics.counts["missed_beginnings"] += reason == episodes.MISSED  # started in mid-episode
            self._refuse(episode.episode_id, reason)
            return
        started = time.perf_counter()
        try:
            self._writer.append(rollout)
        except (BankError, OSError, ValueError) as error:
            self.diagnostics.state(ERROR, f"rollout {rollout.episode_id} could not be written: {error}")
            self._refuse(episode.episode_id, f"it could not be written: {error}")
            return
        written = time.perf_counter() - started
        self.diagnostics.state(OK, "")
        self._announce(rollout.episode_id, written)
        self._retain()

    def _retain(self) -> None:
        """Within the budget; what goes is logged."""
        try:
            gone = self._writer.retain()
        except (BankError, OSError) as error:
            self.diagnostics.state(ERROR, f"the bank exceeds its budget: {error}")
            return
        if gone:
            self.diagnostics.counts["forgotten"] += len(gone)
            self._announce("", 0.0)
            self.get_logger().info(f"over budget, {self.parameter('retention.strategy')}: forgotten {', '.join(gone)}")

    def _forget(self, request, response):
        bank = self.parameter("bank")
        try:
            if not request.where:
                raise ValueError("where is empty; name what to forget, for instance id=... or task=push*")
            meant = matching(BankReader(Path(bank).expanduser()).rollouts(), request.where)
            response.rollouts = [record.id for record in meant]
            if meant and not request.dry_run:
                self._writer.forget(*response.rollouts, reason=request.reason or "asked for by service")
                self.diagnostics.counts["forgotten"] += len(meant)
                self._announce("", 0.0)
        except (BankError, OSError, ValueError, KeyError) as error:
            response.success, response.message, response.rollouts = False, str(error), []
            return response
        response.success, response.revision = True, self._writer.revision
        done = "would be forgotten" if request.dry_run else "are forgotten"
        response.message = f"{len(meant)} rollouts of {bank} {done}"
        self.get_logger().info(response.message)
        return response

    def _refuse(self, episode_id: str, reason: str) -> None:
        self.get_logger().warning(f"episode {episode_id} is not remembered: {reason}")
        self._announce(episode_id, 0.0, reason)

    def _announce(self, episode_id: str, write_s: float, not_saved_reason: str = "") -> None:
        self._out.publish(
            BankChanged(
                stamp=self.get_clock().now().to_msg(),
                episode_id=episode_id,
                not_saved_reason=not_saved_reason,
                revision=self._writer.revision,
                rollouts=self._writer.rollouts,
                steps=self._writer.steps,
                write_s=write_s,
            )
        )
        self.diagnostics.tick(write_s)


def main() -> None:
    run(lambda: BankWriterNode("bank_writer"), niceness=10)
