"""efn_corrector: asks memory, adds the residual, keeps the limits and the deadline. One answer for every step."""

from __future__ import annotations

import math

from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from efn_ros.msg import CorrectedAction, EpisodeState, PolicyStepStamped
from efn_ros.ros import conversions
from efn_ros.ros.diagnostics import ERROR, OK, WARN
from efn_ros.ros.node import EfnNode, Parameter, describe_error, run
from efn_ros.ros.qos import KEPT_STEPS, LATCHED, STEPS
from efn_ros.runtime.experiments import EXPERIMENT
from efn_ros.runtime.factory import make_corrector, make_switching
from efn_ros.srv import RetrieveExperience
from efn_ros.types import Mode, PolicyStep, Recall

RETRY_NS = 1_000_000_000  # a memory that is lost has this long to answer before it is asked once more


class EfnCorrector(EfnNode):
    """In: policy_step; calls `retrieve`; with `learn` also episode. Out: corrected_action. Services: ~/stop (latched),
    ~/reset, ~/enable."""

    PARAMETERS = (
        Parameter("enabled", True, "Whether memory corrects; also switched by ~/enable."),
        Parameter("shadow", False, "Execute the base; what memory proposes is only published and recorded."),
        Parameter("deadline_s", 0.02, "Longest wait for memory; then the base action goes out, seconds.", 0.0, 60.0),
        Parameter("method", "recalled_action", "Residual: recalled_action (without training) or learned (the EFN)."),
        Parameter(
            "checkpoint",
            "",
            "Directory of the EFN, or packaged:libero; empty: the package's for Meta-World; of method learned.",
        ),
        Parameter("learn", False, "Use, from the next episode on, the checkpoint that was accepted at work."),
        Parameter("bank", "bank", "Directory of the experience bank, which holds these checkpoints."),
        Parameter("gain", 0.5, "Factor on the residual.", 0.0, 1.0),
        Parameter(
            "check_memory",
            True,
            "Follow memory only as far as it fits what the episode has shown; of method learned.",
        ),
        Parameter("min_confidence", 0.5, "Recall below it is not followed; of method recalled_action.", 0.0, 1.0),
        Parameter("control_steps", 1, "Control steps from one decision to the next.", 1, 1000),
        Parameter("rate_hz", 20.0, "Control rate, Hz.", 0.1, 1000.0),
        Parameter(
            "exploration.mode",
            "off",
            "Exploration around what would be executed, in episodes that are corrected and recorded: off, noise, "
            "residual (of method learned), branch or retry.",
        ),
        Parameter("exploration.scale", 0.5, "Largest exploration noise, share of limits.residual.", 0.0, 1.0),
        Parameter("exploration.max_confidence", 0.5, "Only where the recall's confidence is below this.", 0.0, 1.0),
        Parameter("exploration.episode_fraction", 0.25, "Share of episodes that explore, by their seed.", 0.0, 1.0),
        Parameter("limits.low", [-1.0], "Lower bound of an action, in its units, one entry a dimension."),
        Parameter("limits.high", [1.0], "Upper bound of an action."),
        Parameter("limits.residual", [0.3], "Largest residual, in the action's units."),
        Parameter("limits.velocity", [math.inf], "Bound of the first difference, units/s."),
        Parameter("limits.acceleration", [math.inf], "Bound of the second difference, units/s^2."),
        Parameter("limits.jerk", [math.inf], "Bound of the third difference, units/s^3."),
        Parameter("limits.reject", [math.inf], "A jump beyond it in one control step is refused, units."),
        Parameter(
            "limits.measured",
            [-1],
            "Entry of proprioception that measures each action entry, -1: none; [-1]: no action is a position.",
        ),
        Parameter("limits.holds_last", [False], "True: holding repeats the last command. False: it means zero."),
        Parameter(EXPERIMENT, "", "Experiment whose residual takes the place of method; empty: none."),
    )

    OPTIONAL_TOPICS = ("episode",)

    def setup(self) -> None:
        """Load the residual, and wait for policy steps."""
        self._corrector = make_corrector(self.parameters())
        self._switching = make_switching(self.parameters(), self._corrector)
        self._enabled = self.parameter("enabled")
        # The step that waits for memory, its message, and when it came.
        self._pending: tuple[PolicyStep, PolicyStepStamped, int] | None = None
        self._request: Future | None = None  # the last one to memory
        self._requested_ns = 0
        self._last_key: tuple = ()  # of the step answered last
        self._memory_lost = ""
        self._out = self.publisher(CorrectedAction, "corrected_action", KEPT_STEPS)
        self._memory = self.create_client(RetrieveExperience, "retrieve")
        self._made.append((self.destroy_client, self._memory))
        self._deadline = self.timer(self.parameter("deadline_s"), self._on_deadline)
        self._deadline.cancel()
        self.listen(PolicyStepStamped, "policy_step", self._on_step, STEPS)
        if self._switching:  # it loads when an episode ends, and has time to before the first step of the next
            self.listen(EpisodeState, "episode", self._on_episode, LATCHED)
            self._report_checkpoint(self._switching.facts)
        self.serve(Trigger, "~/stop", self._stop)
        self.serve(Trigger, "~/reset", self._reset)
        self.serve(SetBool, "~/enable", self._enable)

    def _on_step(self, message: PolicyStepStamped) -> None:
        received_ns = self.now_ns()
        step = conversions.policy_step_from_msg(message)
        key = _key(step)
        if key == self._last_key or (self._pending and key == _key(self._pending[0])):
            self.diagnostics.counts["duplicates"] += 1
            return
        if self._pending is not None:
            self._finish(Recall(reason="the next step came before memory's answer"))
        if self._switching and self._switching.begin(step):
            self._report_checkpoint(self._switching.facts)
        self._pending = (step, message, received_ns)
        if not (self._enabled and step.context.correct) or self._corrector.stop_reason:
            self._finish(Recall(reason="correction is off"))
        elif not self._memory.service_is_ready():
            self._lose_memory("experience_retrieval is not running")
            self._finish(Recall(reason=self._memory_lost))
        elif self._memory_lost and self._is_requested() and received_ns - self._requested_ns < RETRY_NS:
            self._finish(Recall(reason=self._memory_lost))
        else:
            self._ask_memory(message, key, received_ns)
            if self._memory_lost:  # it is asked, so that its return is noticed, but nobody waits
                self._finish(Recall(reason=self._memory_lost))
            else:
                self._deadline.reset()

    def _ask_memory(self, message: PolicyStepStamped, key: tuple, now_ns: int) -> None:
        if self._request is not None and self._is_requested():  # hardly to be answered, yet kept for ever
            self._memory.remove_pending_request(self._request)
        self._request, self._requested_ns = self._memory.call_async(conversions.query_to_request(message)), now_ns
        self.when_done(self._request, lambda response: self._on_answer(key, response))

    def _is_requested(self) -> bool:
        return self._request is not None and not self._request.done()

    def _on_episode(self, episode: EpisodeState) -> None:
        self._switching.prefetch()
        self._report_checkpoint(self._switching.facts)

    def _report_checkpoint(self, facts: dict[str, str]) -> None:
        reported = self.diagnostics.facts
        if facts["refused"] not in ("", reported.get("refused")):
            self.diagnostics.error(facts["refused"])
            self.get_logger().warning(f"{facts['refused']}; checkpoint {facts['checkpoint']} stays")
        if facts["checkpoint"] != reported.get("checkpoint"):
            self.get_logger().info(f"checkpoint {facts['checkpoint']} corrects")
        self.diagnostics.facts = facts

    def _on_answer(self, key: tuple, response: RetrieveExperience.Response) -> None:
        if self._memory_lost:
            self._memory_lost = ""
            self.diagnostics.state(OK, "")
            self.get_logger().info("memory answers again")
        if self._pending is None:
            self.diagnostics.counts["late_answers"] += 1
            return
        if key == _key(self._pending[0]):
            try:
                recall = conversions.recall_from_response(response)
            except ValueError as error:
                self.report(error)
                recall = Recall(reason=f"the answer of experience_retrieval cannot be used: {error}")
            self._finish(recall, answered=True)

    def _on_deadline(self) -> None:
        self._deadline.cancel()
        if self._pending is not None:
            self._lose_memory("memory did not answer within its deadline")
            self._finish(Recall(reason=self._memory_lost))

    def _lose_memory(self, reason: str) -> None:
        if not self._memory_lost:
            self.get_logger().warning(f"{reason}; base actions go out")
        self._memory_lost = reason
        self.diagnostics.counts["without_memory"] += 1
        self.diagnostics.state(WARN, f"base only: {reason}")

    def _finish(self, recall: Recall, answered: bool = False) -> None:
        """Answer the pending step."""
        self._deadline.cancel()
        (step, message, received_ns), self._pending = self._pending, None
        self._last_key = _key(step)
        try:
            correction = self._corrector.correct(step, recall)
        except Exception as error:  # noqa: BLE001 - an action must go out, whatever is wrong with the correction
            self.report(error)
            correction = self._corrector.base_only(step, f"the correction failed: {describe_error(error)}")
        now_ns = self.now_ns()
        recall_s = (now_ns - received_ns) * 1e-9 if answered else math.nan
        self._out.publish(conversions.correction_to_msg(correction, recall_s, received_ns, now_ns, message))
        self.diagnostics.counts[correction.mode.name.lower()] += 1
        self.diagnostics.counts["explored"] += bool(correction.exploration)
        if correction.mode == Mode.HOLD:
            self.diagnostics.error(f"holding: {correction.reason}")
        self.diagnostics.tick((now_ns - step.context.stamp_ns) * 1e-9)

    def _stop(self, request, response):
        self._corrector.stop("stopped by the operator")
        self.diagnostics.state(ERROR, self._corrector.stop_reason)
        response.success, response.message = True, self._corrector.stop_reason
        return response

    def _reset(self, request, response):
        self._corrector.reset()
        self.diagnostics.state(OK, "")
        response.success, response.message = True, "released"
        return response

    def _enable(self, request, response):
        self._enabled = request.data
        response.success, response.message = True, "corrections are " + ("on" if request.data else "off")
        return response


def _key(step: PolicyStep) -> tuple[str, int, int]:
    return step.context.episode_id, step.context.step, step.context.stamp_ns


def main() -> None:
    """Run the node."""
    run(lambda: EfnCorrector("efn_corrector"))
