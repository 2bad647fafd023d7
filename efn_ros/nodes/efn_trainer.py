"""efn_trainer: learns on from what the robot lives through, in the background, and offers what is proven."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import torch
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from std_srvs.srv import Trigger

from efn_ros.bank import BankError
from efn_ros.correction.registry import Checkpoint, Registry
from efn_ros.msg import EpisodeState
from efn_ros.nodes import efn_corrector, experience_retrieval
from efn_ros.online.config import LearnConfig
from efn_ros.online.learner import Learner
from efn_ros.online.throttle import Stopped, Throttle
from efn_ros.ros.diagnostics import ERROR, OK
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import LATCHED
from efn_ros.runtime.factory import make_learner

ASK_S, LOOK_S, AGAIN_S = 1.0, 2.0, 30.0  # from one question, look at the bank, and try after an error to the next
JOIN_S = 1.0
# These say themselves how the robot is corrected, so that recall is simulated as it is at work.
ASKED = {
    "experience_retrieval": [parameter.name for parameter in experience_retrieval.ExperienceRetrieval.PARAMETERS],
    "efn_corrector": [parameter.name for parameter in efn_corrector.EfnCorrector.PARAMETERS],
}
DEFAULT = LearnConfig()


class EfnTrainer(EfnNode):
    """In: episode; the bank; parameters of experience_retrieval and efn_corrector. Services: ~/candidates, ~/switch (to
    the newest that is offered), ~/undo. Part of a graph only with `learn: true`."""

    PARAMETERS = (
        Parameter("learn", False, "Learn on at work; without it the node idles."),
        Parameter("bank", "bank", "Directory of the experience bank; what is learnt lies in efn/ within it."),
        Parameter("rule", "operator", "Who switches to a proven candidate: operator, or the rule: when proven."),
        Parameter(
            "episode_share",
            0.25,
            "Share of one core that it takes while an episode runs; 0 waits for its end.",
            0.0,
            1.0,
        ),
        Parameter("threads", 1, "Threads of training.", 1, 64),
        Parameter("seed", DEFAULT.seed, "Seed of training.", 0),
        Parameter("held_out", DEFAULT.held_out, "Share of rollouts that are not learnt from but prove.", 0.01, 0.99),
        Parameter("least_new", DEFAULT.least_new, "Rollouts from one candidate to the next.", 1, 100000),
        Parameter("most_rollouts", DEFAULT.most_rollouts, "The newest rollouts that are used.", 2, 100000),
        Parameter("epochs", DEFAULT.epochs, "Passes over the lessons.", 1, 1000),
        Parameter("batch", DEFAULT.batch, "Decisions of an update.", 1, 4096),
        Parameter("learning_rate", DEFAULT.learning_rate, "Of AdamW.", 1e-8, 0.1),
        Parameter("nearness", DEFAULT.nearness, "Weight of the change against the network in use.", 0.0, 1000.0),
        Parameter("anchor", DEFAULT.anchor, "Weight of decisions with which the base alone succeeded.", 0.001, 1.0),
        Parameter("margin", DEFAULT.margin, "Share by which the error on these must fall.", 0.001, 0.99),
        Parameter(
            "least_held_out",
            DEFAULT.least_held_out,
            "Held-out successes that were corrected, which must show it.",
            1,
            100000,
        ),
        Parameter(
            "most_change",
            DEFAULT.most_change,
            "Largest change of a held-out decision, share of the network's bound.",
            0.001,
            2.0,
        ),
        Parameter("kept", DEFAULT.kept, "Candidates kept that were never used: proven, and rejected.", 1, 1000),
    )

    def setup(self) -> None:
        self._registry = Registry(self.parameter("bank"))
        self._throttle, self._thread = Throttle(self.parameter("episode_share")), None
        self._facts: dict[str, str] = {}
        self._askers = {name: self.create_client(GetParameters, f"{name}/get_parameters") for name in ASKED}
        self._made += [(self.destroy_client, client) for client in self._askers.values()]
        self._answers: dict[str, dict] = {}
        self.listen(EpisodeState, "episode", self._on_episode, LATCHED)
        self.serve(Trigger, "~/candidates", self._list)
        self.serve(Trigger, "~/switch", self._switch)
        self.serve(Trigger, "~/undo", self._undo)
        self._asking = self.timer(ASK_S, self._ask)

    def start(self) -> None:
        self._say(OK, "asks how the robot is corrected" if self.parameter("learn") else "idle: learn is false")
        self._throttle = Throttle(self.parameter("episode_share"))
        self._asking.reset()

    def stop(self) -> None:
        """Ends between two pieces of work; what is cut off is gone on with at the next start."""
        self._throttle.end()
        if self._thread is not None:
            self._thread.join(JOIN_S)
            self._thread = None

    def teardown(self) -> None:
        if hasattr(self, "_throttle"):
            self.stop()

    def _on_episode(self, episode: EpisodeState) -> None:
        self._throttle.busy = episode.phase == EpisodeState.RUNNING

    def _ask(self) -> None:
        if not (self.active and self.parameter("learn")) or self._thread is not None:
            self._asking.cancel()
            return
        missing = [name for name in ASKED if name not in self._answers]
        for name in missing:
            if self._askers[name].service_is_ready():
                future = self._askers[name].call_async(GetParameters.Request(names=ASKED[name]))
                self.when_done(future, lambda answer, name=name: self._on_answer(name, answer))
        if missing:
            self._say(OK, f"asks {' and '.join(missing)} how the robot is corrected")
            return
        self._thread = threading.Thread(target=self._work, args=(self._throttle,), daemon=True)
        self._thread.start()

    def _on_answer(self, name: str, answer: GetParameters.Response) -> None:
        values = [parameter_value_to_python(value) for value in answer.values]
        if len(values) == len(ASKED[name]):
            self._answers[name] = dict(zip(ASKED[name], values, strict=True))

    def _work(self, throttle: Throttle) -> None:
        torch.set_num_threads(self.parameter("threads"))
        answers = [self._answers[name] for name in ASKED]
        learner: Learner | None = None
        try:
            while True:
                try:
                    if learner is None:
                        hooks = {"pause": throttle, "tell": lambda text: self._say(OK, text)}
                        learner = make_learner(self.parameters(), *answers, **hooks)
                    came_of_it, candidate = learner.advance()
                except (BankError, OSError, ValueError) as error:
                    self._say(ERROR, f"cannot learn: {error}")
                    throttle.wait(AGAIN_S)
                    continue
                if candidate is not None:
                    self.get_logger().info(came_of_it)
                    losses = ", ".join(f"{loss:.4f}" for loss in candidate.report["losses"])
                    self._facts |= {"candidate": came_of_it, "losses": losses}
                self._say(OK, came_of_it)
                throttle.wait(LOOK_S)
        except Stopped:
            self._say(OK, "stopped")
        except Exception as error:  # noqa: BLE001 - the robot goes on without learning, and says why
            self._say(ERROR, f"learning has ended: {type(error).__name__}: {error}")

    def _say(self, level: bytes, text: str) -> None:
        self.diagnostics.state(level, text)
        self.diagnostics.facts = {"learning": text, **self._facts}

    def _list(self, request, response):
        return self._answer(response, lambda: json.dumps(self._registry.summary(), indent=1))

    def _switch(self, request, response):
        def switch() -> str:
            offered = self._registry.offered()
            if not offered:
                raise ValueError("no candidate is offered")
            return _next(self._registry.switch(offered[-1].number))

        return self._answer(response, switch)

    def _undo(self, request, response):
        return self._answer(response, lambda: _next(self._registry.undo()))

    def _answer(self, response, act: Callable[[], str]):
        try:
            response.message, response.success = act(), True
        except (OSError, ValueError) as error:
            response.message, response.success = str(error), False
        return response


def _next(checkpoint: Checkpoint) -> str:
    return f"checkpoint {checkpoint.number} {checkpoint.fingerprint} corrects from the next episode on"


def main() -> None:
    run(lambda: EfnTrainer("efn_trainer"), niceness=19)
