# SPDX-License-Identifier: MIT
"""efn_corrector: recall experience, add the residual within limits and deadline; one action for every policy step."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from efn_ros.msg import CorrectedAction, EpisodeState, PolicyStepStamped
from efn_ros.ros import conversions
from efn_ros.ros.diagnostics import ERROR, OK, WARN
from efn_ros.ros.node import EfnNode, Parameter, describe_error
from efn_ros.ros.process import run
from efn_ros.ros.qos import LATCHED, LATCHED_STEPS, STEPS
from efn_ros.runtime.experiments import EXPERIMENT
from efn_ros.runtime.factory import make_corrector, make_switching
from efn_ros.srv import RetrieveExperience
from efn_ros.types import Mode, PolicyStep, Recall

if TYPE_CHECKING:
    from efn_ros.correction.switching import Switching  # it imports torch, which loads slowly

RETRY_NS = 1_000_000_000  # longest wait for a response of a lost memory before the next request, ns


class Pending(NamedTuple):
    """A policy step that waits for its recall."""

    step: PolicyStep  # as a type
    message: PolicyStepStamped  # as it was received
    received_ns: int  # when

    @property
    def key(self) -> tuple[str, int, int]:
        """Identity of the step: episode, decision and stamp."""
        return self.step.context.episode_id, self.step.context.step, self.step.context.stamp_ns


class EfnCorrector(EfnNode):
    """Correct every policy step by recalled experience, within limits and a deadline.

    Subscribes: `policy_step`; with `learn` also `episode`. Calls the service `retrieve`.
    Publishes: `corrected_action`.
    Services: `~/stop` (latched), `~/reset`, `~/enable`.
    """

    PARAMETERS = (
        Parameter("enabled", True, "Whether memory corrects; can be changed by ~/enable."),
        Parameter("shadow", False, "Execute the base action; the proposed residual is only published and recorded."),
        Parameter("deadline_s", 0.02, "Longest wait for the recall, s; then the base action is executed.", 0.0, 60.0),
        Parameter(
            "method",
            "recalled_action",
            "Source of the residual: recalled_action (untrained), learned (the EFN), or that of a plugin.",
        ),
        Parameter(
            "checkpoint",
            "",
            "EFN of method learned: a directory or packaged:libero; empty: the package's for Meta-World.",
        ),
        Parameter("learn", False, "Use the checkpoint that efn_trainer accepted, from the next episode on."),
        Parameter("bank", "bank", "Directory of the experience bank, which contains these checkpoints."),
        Parameter("gain", 0.5, "Factor on the residual.", 0.0, 1.0),
        Parameter(
            "check_memory", True, "Scale the residual by how well the recall fits the episode; for method learned."
        ),
        Parameter(
            "min_confidence", 0.5, "Least confidence of a followed recall; for method recalled_action.", 0.0, 1.0
        ),
        Parameter("control_steps", 1, "Control steps from one decision to the next.", 1, 1000),
        Parameter("rate_hz", 30.0, "Control rate, Hz.", 0.1, 1000.0),
        Parameter(
            "exploration.mode",
            "off",
            "Exploration of corrected, recorded episodes: off, noise, residual (for method learned), branch or retry.",
        ),
        Parameter("exploration.scale", 0.5, "Largest exploration noise, share of limits.residual.", 0.0, 1.0),
        Parameter("exploration.max_confidence", 0.5, "Explore only below this confidence of the recall.", 0.0, 1.0),
        Parameter("exploration.episode_fraction", 0.25, "Share of episodes that explore, by their seed.", 0.0, 1.0),
        Parameter("limits.low", [-1.0], "Lower bound of an action, in its units, one entry a dimension."),
        Parameter("limits.high", [1.0], "Upper bound of an action."),
        Parameter("limits.residual", [0.3], "Largest residual, in the action's units."),
        Parameter("limits.velocity", [math.inf], "Bound of the first difference, units/s."),
        Parameter("limits.acceleration", [math.inf], "Bound of the second difference, units/s^2."),
        Parameter("limits.jerk", [math.inf], "Bound of the third difference, units/s^3."),
        Parameter("limits.reject", [math.inf], "Jump in one control step beyond which an action is refused, units."),
        Parameter(
            "limits.measured",
            [-1],
            "Entry of proprioception that measures each entry of an action; -1: none; [-1]: no entry is a position.",
        ),
        Parameter("limits.holds_last", [True], "True: holding repeats the last command; false: it commands zero."),
        Parameter(EXPERIMENT, "", "Experiment whose residual replaces that of method; empty: none."),
    )

    OPTIONAL_TOPICS = ("episode",)

    def setup(self) -> None:
        """Load the residual and create the topics."""
        self._corrector = make_corrector(self.parameters())
        self._switching = make_switching(self.parameters(), self._corrector)
        self._enabled = self.parameter("enabled")
        self._pending: Pending | None = None
        self._request: Future | None = None  # the last one to memory
        self._requested_ns = 0
        self._last_key: tuple = ()  # of the last step with an action
        self._memory_lost = ""  # why memory does not respond; empty while it does
        self._out = self.publisher(CorrectedAction, "corrected_action", LATCHED_STEPS)
        self._memory = self.client(RetrieveExperience, "retrieve")
        self._deadline = self.timer(self.parameter("deadline_s"), self._on_deadline)
        self._deadline.cancel()
        self.subscribe(PolicyStepStamped, "policy_step", self._on_step, STEPS)
        if self._switching:  # it loads at the end of an episode, before the first step of the next one
            self.subscribe(EpisodeState, "episode", partial(self._on_episode, self._switching), LATCHED)
            self._report_checkpoint(self._switching.facts)
        self.serve_text(Trigger, "~/stop", self._stop)
        self.serve_text(Trigger, "~/reset", self._reset)
        self.serve_text(SetBool, "~/enable", self._enable)

    def _on_step(self, message: PolicyStepStamped) -> None:
        received_ns = self.now_ns()
        pending = Pending(conversions.policy_step_from_msg(message), message, received_ns)
        if pending.key == self._last_key or (self._pending and pending.key == self._pending.key):
            self.diagnostics.counts["duplicates"] += 1
            return
        if self._pending is not None:
            self._finish(self._pending, Recall(reason="the next step arrived before the recall"))
        if self._switching and self._switching.begin(pending.step):
            self._report_checkpoint(self._switching.facts)
        self._pending = pending
        if not (self._enabled and pending.step.context.correct) or self._corrector.stop_reason:
            self._finish(pending, Recall(), base_only="correction is off")
        elif not self._memory.service_is_ready():
            self._lose_memory("experience_retrieval is not running")
            self._finish(pending, Recall(reason=self._memory_lost))
        elif self._memory_lost and self._is_requested() and received_ns - self._requested_ns < RETRY_NS:
            self._finish(pending, Recall(reason=self._memory_lost))
        else:
            self._request_recall(pending)
            if self._memory_lost:  # the request only finds out when memory responds again
                self._finish(pending, Recall(reason=self._memory_lost))
            else:
                self._deadline.reset()

    def _request_recall(self, pending: Pending) -> None:
        if self._request is not None and self._is_requested():  # rclpy would store it without end
            self._memory.remove_pending_request(self._request)
        self._request = self._memory.call_async(conversions.query_to_request(pending.message))
        self._requested_ns = pending.received_ns
        self.when_done(self._request, partial(self._on_response, pending.key))

    def _is_requested(self) -> bool:
        return self._request is not None and not self._request.done()

    def _on_episode(self, switching: Switching, episode: EpisodeState) -> None:
        switching.prefetch()
        self._report_checkpoint(switching.facts)

    def _report_checkpoint(self, facts: dict[str, str]) -> None:
        reported = self.diagnostics.facts
        if facts["refused"] not in ("", reported.get("refused")):
            self.diagnostics.error(facts["refused"])
            self.get_logger().warning(f"{facts['refused']}; checkpoint {facts['checkpoint']} stays")
        if facts["checkpoint"] != reported.get("checkpoint"):
            self.get_logger().info(f"checkpoint {facts['checkpoint']} corrects")
        self.diagnostics.facts = facts

    def _on_response(self, key: tuple, response: RetrieveExperience.Response) -> None:
        if self._memory_lost:
            self._memory_lost = ""
            self._report_state()
            self.get_logger().info("memory responds again")
        if self._pending is None:
            self.diagnostics.counts["late_answers"] += 1
            return
        if key == self._pending.key:
            try:
                recall = conversions.recall_from_response(response)
            except ValueError as error:
                self.report(error)
                recall = Recall(reason=f"the answer of experience_retrieval cannot be used: {error}")
            self._finish(self._pending, recall, responded=True)

    def _on_deadline(self) -> None:
        self._deadline.cancel()
        if self._pending is not None:
            self._lose_memory("memory did not answer within its deadline")
            self._finish(self._pending, Recall(reason=self._memory_lost))

    def _lose_memory(self, reason: str) -> None:
        if not self._memory_lost:
            self.get_logger().warning(f"{reason}; base actions are executed")
        self._memory_lost = reason
        self.diagnostics.counts["without_memory"] += 1
        self._report_state()

    def _report_state(self) -> None:
        """Report the stop, which outlasts whatever memory does, else that memory is lost."""
        if self._corrector.stop_reason:
            self.diagnostics.state(ERROR, self._corrector.stop_reason)
        elif self._memory_lost:
            self.diagnostics.state(WARN, f"base only: {self._memory_lost}")
        else:
            self.diagnostics.state(OK, "")

    def _finish(self, pending: Pending, recall: Recall, *, responded: bool = False, base_only: str = "") -> None:
        """Publish the action of a step.

        Args:
            pending: The step.
            recall: The experience recalled for it.
            responded: Whether memory gave the recall.
            base_only: Why no residual is asked for; empty: one is.
        """
        self._deadline.cancel()
        self._pending, self._last_key = None, pending.key
        step, message, received_ns = pending
        try:
            correction = self._corrector.correct(step, recall, base_only=base_only)
        except Exception as error:  # noqa: BLE001 - after any error of the correction an action must be published
            self.report(error)
            failed = f"the correction failed: {describe_error(error)}"
            correction = self._corrector.correct(step, Recall(reason=failed), base_only=failed)
        now_ns = self.now_ns()
        recall_s = (now_ns - received_ns) * 1e-9 if responded else math.nan
        self._out.publish(conversions.correction_to_msg(correction, recall_s, received_ns, now_ns, message))
        self.diagnostics.counts[correction.mode.name.lower()] += 1
        self.diagnostics.counts["explored"] += bool(correction.exploration)
        if correction.mode == Mode.HOLD:
            self.diagnostics.error(f"holding: {correction.reason}")
        self.diagnostics.tick((now_ns - step.context.stamp_ns) * 1e-9)

    def _stop(self, request: Trigger.Request) -> str:
        self._corrector.stop("stopped by the operator")
        self._report_state()
        return self._corrector.stop_reason

    def _reset(self, request: Trigger.Request) -> str:
        self._corrector.reset()
        self._report_state()
        return "released"

    def _enable(self, request: SetBool.Request) -> str:
        self._enabled = request.data
        return "corrections are " + ("on" if request.data else "off")


def main() -> None:
    """Run the node."""
    run(lambda: EfnCorrector("efn_corrector"))
