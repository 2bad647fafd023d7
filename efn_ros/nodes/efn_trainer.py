# SPDX-License-Identifier: MIT
"""efn_trainer: train the EFN on the rollouts of the bank in the background, and offer accepted checkpoints."""

from __future__ import annotations

import json
import threading
from functools import partial

import torch
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from std_srvs.srv import Trigger

from efn_ros.bank import BankError
from efn_ros.correction.checkpoint_registry import Checkpoint, Registry
from efn_ros.msg import EpisodeState
from efn_ros.nodes import efn_corrector, experience_retrieval
from efn_ros.online.config import LearnConfig
from efn_ros.online.factory import make_learner
from efn_ros.online.learner import Learner
from efn_ros.online.throttle import Stopped, Throttle
from efn_ros.ros.diagnostics import ERROR, OK
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import LATCHED

REQUEST_S, CHECK_S, RETRY_S = 1.0, 2.0, 30.0  # between two requests, between two checks of the bank, after an error
JOIN_S = 1.0  # longest wait for the end of training
# Parameters of the nodes that correct the robot; training simulates recall with them.
REQUESTED = {
    "experience_retrieval": [parameter.name for parameter in experience_retrieval.ExperienceRetrieval.PARAMETERS],
    "efn_corrector": [parameter.name for parameter in efn_corrector.EfnCorrector.PARAMETERS],
}
DEFAULT = LearnConfig()


class EfnTrainer(EfnNode):
    """Train the EFN on the rollouts of the bank in the background, and offer accepted checkpoints.

    Subscribes: `episode`. Reads the bank, and requests the parameters of `experience_retrieval` and `efn_corrector`.
    Services: `~/candidates`, `~/switch` (to the newest one offered), `~/undo`.

    Part of a graph only with `learn: true`.
    """

    PARAMETERS = (
        Parameter("learn", False, "Train while the robot works; false: the node is idle."),
        Parameter("bank", "bank", "Directory of the experience bank; its subdirectory efn/ contains the checkpoints."),
        Parameter(
            "rule", "operator", "Who switches to an accepted candidate: operator, or the node itself: when accepted."
        ),
        Parameter(
            "cpu_share", 0.25, "Share of one core while an episode runs; 0: train only between episodes.", 0.0, 1.0
        ),
        Parameter("threads", 1, "Threads of training.", 1, 64),
        Parameter("seed", DEFAULT.seed, "Seed of training.", 0),
        Parameter("held_out_fraction", DEFAULT.held_out_fraction, "Share of rollouts for validation.", 0.01, 0.99),
        Parameter("min_new_rollouts", DEFAULT.min_new_rollouts, "New rollouts before the next candidate.", 1, 100000),
        Parameter("max_rollouts", DEFAULT.max_rollouts, "Number of newest rollouts that are used.", 2, 100000),
        Parameter("epochs", DEFAULT.epochs, "Passes over the training samples.", 1, 1000),
        Parameter("batch_size", DEFAULT.batch_size, "Decisions in an optimiser step.", 1, 4096),
        Parameter("learning_rate", DEFAULT.learning_rate, "Learning rate of AdamW.", 1e-8, 0.1),
        Parameter(
            "proximal_weight", DEFAULT.proximal_weight, "Weight of the change of the network in use.", 0.0, 1000.0
        ),
        Parameter(
            "base_weight", DEFAULT.base_weight, "Weight of decisions in successes of the base alone.", 0.001, 1.0
        ),
        Parameter("min_improvement", DEFAULT.min_improvement, "Least decrease of held-out error, share.", 0.001, 0.99),
        Parameter(
            "min_held_out_successes",
            DEFAULT.min_held_out_successes,
            "Least number of corrected held-out successes.",
            1,
            100000,
        ),
        Parameter("max_change", DEFAULT.max_change, "Largest change of a decision, share of the bound.", 0.001, 2.0),
        Parameter(
            "kept_candidates",
            DEFAULT.kept_candidates,
            "Unused candidates that are kept, accepted and rejected ones each.",
            1,
            1000,
        ),
    )

    def setup(self) -> None:
        """Create the services, and request the parameters of the other nodes."""
        self._registry = Registry(self.parameter("bank"))
        self._throttle = Throttle(self.parameter("cpu_share"))
        self._thread: threading.Thread | None = None
        self._facts: dict[str, str] = {}
        self._parameter_clients = {name: self.client(GetParameters, f"{name}/get_parameters") for name in REQUESTED}
        self._received: dict[str, dict] = {}  # node -> its parameters
        self.subscribe(EpisodeState, "episode", self._on_episode, LATCHED)
        self.serve_text(Trigger, "~/candidates", self._list, OSError, ValueError)
        self.serve_text(Trigger, "~/switch", self._switch, OSError, ValueError)
        self.serve_text(Trigger, "~/undo", self._undo, OSError, ValueError)
        self._requests = self.timer(REQUEST_S, self._request)

    def start(self) -> None:
        """Begin to train if `learn` is true."""
        self._report_state(OK, "requests parameters" if self.parameter("learn") else "idle: learn is false")
        self._throttle = Throttle(self.parameter("cpu_share"))
        self._requests.reset()

    def stop(self) -> None:
        """Interrupt training between two steps; the next start continues it."""
        self._throttle.end()
        if self._thread is not None:
            self._thread.join(JOIN_S)
            self._thread = None

    def teardown(self) -> None:
        """End training."""
        if hasattr(self, "_throttle"):
            self.stop()

    def _on_episode(self, episode: EpisodeState) -> None:
        self._throttle.busy = episode.phase == EpisodeState.RUNNING

    def _request(self) -> None:
        if not (self.active and self.parameter("learn")) or self._thread is not None:
            self._requests.cancel()
            return
        missing = [name for name in REQUESTED if name not in self._received]
        for name in missing:
            if self._parameter_clients[name].service_is_ready():
                future = self._parameter_clients[name].call_async(GetParameters.Request(names=REQUESTED[name]))
                self.when_done(future, partial(self._on_parameters, name))
        if missing:
            self._report_state(OK, f"waits for the parameters of {' and '.join(missing)}")
            return
        self._thread = threading.Thread(target=self._work, args=(self._throttle,), daemon=True)
        self._thread.start()

    def _on_parameters(self, name: str, response: GetParameters.Response) -> None:
        values = [parameter_value_to_python(value) for value in response.values]
        if len(values) == len(REQUESTED[name]):
            self._received[name] = dict(zip(REQUESTED[name], values, strict=True))

    def _work(self, throttle: Throttle) -> None:
        torch.set_num_threads(self.parameter("threads"))
        received = [self._received[name] for name in REQUESTED]
        learner: Learner | None = None
        try:
            while True:
                try:
                    if learner is None:
                        hooks = {"pause": throttle, "report": lambda text: self._report_state(OK, text)}
                        learner = make_learner(self.parameters(), *received, **hooks)
                    outcome, candidate = learner.advance()
                except (BankError, OSError, ValueError) as error:
                    self._report_state(ERROR, f"cannot learn: {error}")
                    throttle.wait(RETRY_S)
                    continue
                if candidate is not None:
                    self.get_logger().info(outcome)
                    losses = ", ".join(f"{loss:.4f}" for loss in candidate.report["losses"])
                    self._facts |= {"candidate": outcome, "losses": losses}
                self._report_state(OK, outcome)
                throttle.wait(CHECK_S)
        except Stopped:
            self._report_state(OK, "stopped")
        except Exception as error:  # noqa: BLE001 - the robot continues without training, and reports why
            self._report_state(ERROR, f"learning has ended: {type(error).__name__}: {error}")

    def _report_state(self, level: bytes, text: str) -> None:
        self.diagnostics.state(level, text)
        self.diagnostics.facts = {"learning": text, **self._facts}

    def _list(self, request: Trigger.Request) -> str:
        return json.dumps(self._registry.summary(), indent=1)

    def _switch(self, request: Trigger.Request) -> str:
        offered = self._registry.offered()
        if not offered:
            raise ValueError("no candidate is offered")
        return _next(self._registry.switch(offered[-1].number))

    def _undo(self, request: Trigger.Request) -> str:
        return _next(self._registry.undo())


def _next(checkpoint: Checkpoint) -> str:
    return f"checkpoint {checkpoint.number} {checkpoint.fingerprint} corrects from the next episode on"


def main() -> None:
    """Run the node."""
    run(lambda: EfnTrainer("efn_trainer"), niceness=19)
