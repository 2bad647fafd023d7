# SPDX-License-Identifier: MIT
"""bank_writer: record every episode as a rollout, and write it to the bank when the episode has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from efn_ros.bank import BankError, BankReader, RolloutRecorder
from efn_ros.bank.store.filters import matching
from efn_ros.msg import BankChanged, CorrectedAction, EpisodeState, ObservationStamped, PolicyStepStamped
from efn_ros.ros import conversions, episodes
from efn_ros.ros.diagnostics import ERROR, OK
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import ALL_LATCHED_STEPS, LATCHED
from efn_ros.runtime.factory import make_writer
from efn_ros.srv import ForgetRollouts


class BankWriterNode(EfnNode):
    """Record every episode as a rollout, and write it to the bank when the episode has ended. The bank's only writer.

    Subscribes: `observation`, `policy_step`, `corrected_action`, `episode`.
    Publishes: `bank_changed`.
    Services: `~/forget`.
    """

    PARAMETERS = (
        Parameter("bank", "bank", "Directory of the experience bank."),
        Parameter("robot", "simulated", "Name of the robot, stored with every rollout."),
        Parameter("tokens_width", 128, "Width of the policy's visual tokens.", 1, 65536),
        Parameter("descriptor_size", 128, "Width of keys and sketches, equation (30).", 8, 4096),
        Parameter("projection_seed", 0, "Seed of the projection.", 0),
        Parameter("image_quality", 90, "JPEG quality of stored images.", 1, 100),
        Parameter(
            "retention.strategy",
            "keep_all",
            "Which rollouts are removed above the budget: keep_all, reservoir, recency, success_shorter or diverse.",
        ),
        Parameter("retention.rollouts", 0, "Budget of the bank, rollouts; 0: none.", 0),
        Parameter("retention.steps", 0, "Budget of the bank, decisions; 0: none.", 0),
        Parameter("retention.megabytes", 0, "Budget of the bank's payloads, 10^6 bytes; 0: none.", 0),
        Parameter("grace_s", 1.0, "Longest wait for the last steps of an ended episode, s.", 0.0, 60.0),
    )

    def setup(self) -> None:
        """Open the bank for writing."""
        self._writer = make_writer(self.parameters(), self.parameter("bank"))
        self._recorder = RolloutRecorder()
        self._episode: EpisodeState | None = None
        self._out = self.publisher(BankChanged, "bank_changed", LATCHED)
        self._grace = self.timer(self.parameter("grace_s"), self._on_grace)
        self._grace.cancel()
        self.serve(ForgetRollouts, "~/forget", self._remove)
        self.subscribe(EpisodeState, "episode", self._on_episode, LATCHED)
        for kind, topic, convert in (
            (ObservationStamped, "observation", conversions.observation_from_msg),
            (PolicyStepStamped, "policy_step", conversions.policy_step_from_msg),
            (CorrectedAction, "corrected_action", conversions.correction_from_msg),
        ):
            self.subscribe(kind, topic, partial(self._on_part, convert), ALL_LATCHED_STEPS)

    def start(self) -> None:
        """Publish the state of the bank."""
        self._announce("", 0.0)

    def teardown(self) -> None:
        """Close the bank; an unfinished episode is not written."""
        if hasattr(self, "_writer"):
            self._writer.close()

    def _on_episode(self, episode: EpisodeState) -> None:
        if not episode.record or episode.saved or episode.not_saved_reason or not episode.episode_id:
            return
        if episode.phase == EpisodeState.RUNNING:
            if self._episode is not None:
                self._finish(self._episode)
            self._episode = episode
            episodes.begin(self._recorder, episode, self.parameter("robot"))
        elif self._episode is not None and self._episode.episode_id == episode.episode_id:
            self._episode = episode
            self._grace.reset()
            self._finish_if_complete()
        elif episode.episode_id in self._writer:  # written by this node before it was restarted
            self._announce(episode.episode_id, 0.0)
        else:
            self._reject(episode.episode_id, episodes.MISSED)

    def _on_part(self, convert: Callable, message: object) -> None:
        """Record a part of a decision, also of an unknown episode: it may overtake the start of the episode."""
        part = convert(message)
        if part.context.record:
            self._recorder.add(part)
            self._finish_if_complete()

    def _finish_if_complete(self) -> None:
        """Finish an ended episode whose steps were all received: its end may overtake the last ones."""
        episode = self._episode
        if episode is not None and episode.phase == EpisodeState.ENDED and episode.decisions:
            if self._recorder.complete >= episode.decisions:
                self._finish(episode)

    def _on_grace(self) -> None:
        self._grace.cancel()
        if self._episode is not None and self._episode.phase == EpisodeState.ENDED:
            self._finish(self._episode)

    def _finish(self, episode: EpisodeState) -> None:
        self._grace.cancel()
        self._episode = None
        rollout, reason = episodes.finish(self._recorder, episode)
        self.diagnostics.counts["incomplete_steps"] += self._recorder.incomplete
        if rollout is None:
            self.diagnostics.counts["missed_starts"] += reason == episodes.MISSED  # this node started in mid-episode
            self._reject(episode.episode_id, reason)
            return
        started = time.perf_counter()
        try:
            self._writer.append(rollout)
        except (BankError, OSError, ValueError) as error:
            self.diagnostics.state(ERROR, f"rollout {rollout.episode_id} could not be written: {error}")
            self._reject(episode.episode_id, f"it could not be written: {error}")
            return
        written = time.perf_counter() - started
        self.diagnostics.state(OK, "")
        self._announce(rollout.episode_id, written)
        self._prune()

    def _prune(self) -> None:
        """Remove rollouts above the budget."""
        try:
            removed = self._writer.prune()
        except (BankError, OSError) as error:
            self.diagnostics.state(ERROR, f"the bank exceeds its budget: {error}")
            return
        if removed:
            self.diagnostics.counts["removed_rollouts"] += len(removed)
            self._announce("", 0.0)
            strategy = self.parameter("retention.strategy")
            self.get_logger().info(f"above the budget, {strategy}: removed {', '.join(removed)}")

    def _remove(self, request: ForgetRollouts.Request, response: ForgetRollouts.Response) -> ForgetRollouts.Response:
        bank = self.parameter("bank")
        try:
            if not request.where:
                raise ValueError("where is empty; name the rollouts to remove, for instance id=... or task=push*")
            found = matching(BankReader(Path(bank).expanduser()).rollouts(), request.where)
            response.rollouts = [record.id for record in found]
            if found and not request.dry_run:
                self._writer.remove(*response.rollouts, reason=request.reason or "requested by service")
                self.diagnostics.counts["removed_rollouts"] += len(found)
                self._announce("", 0.0)
        except (BankError, OSError, ValueError, KeyError) as error:
            response.success, response.message, response.rollouts = False, str(error), []
            return response
        response.success, response.revision = True, self._writer.revision
        response.message = f"{len(found)} rollouts of {bank} {'would be' if request.dry_run else 'were'} removed"
        self.get_logger().info(response.message)
        return response

    def _reject(self, episode_id: str, reason: str) -> None:
        self.get_logger().warning(f"episode {episode_id} is not saved: {reason}")
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
    """Run the node."""
    run(lambda: BankWriterNode("bank_writer"), niceness=10)
