"""A plain Python handle on a running graph: wait until it is ready, run episodes, see what went out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from efn_ros.msg import BankChanged, CorrectedAction, EpisodeState, ObservationStamped
from efn_ros.ros.episodes import NOT_SAVED_YET
from efn_ros.ros.qos import EVERY_STEP, LATCHED
from efn_ros.srv import AbortEpisode, StartEpisode

STRAGGLERS_S = 2.0


@dataclass
class EpisodeRecord:
    """What passed by during one episode. state: its end. actions: in order."""

    state: EpisodeState
    observations: list[ObservationStamped] = field(default_factory=list)
    actions: list[CorrectedAction] = field(default_factory=list)

    @property
    def success(self) -> bool:
        return self.state.outcome == EpisodeState.OUTCOME_SUCCESS


class Client:
    """Owns a ROS context, a node and its executor; use it as a context manager, from one thread."""

    def __init__(self, namespace: str = "efn", *, observations: bool = False) -> None:
        """observations: also keep the images."""
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("efn_client", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.episode = EpisodeState()
        self.bank = BankChanged()
        self.lifecycle: dict[str, str] = {}
        self.statuses: dict[str, object] = {}
        self._record = EpisodeRecord(EpisodeState())
        subscribe = self.node.create_subscription
        subscribe(EpisodeState, "episode", self._on_episode, LATCHED)
        subscribe(BankChanged, "bank_changed", lambda m: setattr(self, "bank", m), LATCHED)
        subscribe(CorrectedAction, "corrected_action", lambda m: self._record.actions.append(m), EVERY_STEP)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        if observations:
            subscribe(ObservationStamped, "observation", lambda m: self._record.observations.append(m), EVERY_STEP)
        self._start = self.node.create_client(StartEpisode, "start_episode")
        self._abort = self.node.create_client(AbortEpisode, "abort")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception) -> None:
        self._executor.shutdown(timeout_sec=0.5)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Raises TimeoutError, naming `what`, if the condition does not hold in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout_s:g} s: {what}")
            self._executor.spin_once(timeout_sec=0.1)

    def wait_ready(
        self, nodes: Iterable[str], timeout_s: float = 120.0, watch: Callable[[], None] | None = None
    ) -> None:
        """Wait until every node says that it is active. watch: called meanwhile; may raise."""
        nodes = set(nodes)

        def ready() -> bool:
            if watch:
                watch()
            return {name for name, state in self.lifecycle.items() if state == "active"} >= nodes

        try:
            self.spin_until(ready, timeout_s, "the graph is not ready")
        except TimeoutError as error:
            missing = sorted(nodes - {name for name, state in self.lifecycle.items() if state == "active"})
            raise TimeoutError(f"{error}; not active: {', '.join(missing)}") from None

    def call(self, client, request, timeout_s: float = 10.0):
        """One service call."""
        if not client.wait_for_service(timeout_sec=timeout_s):
            raise TimeoutError(f"service {client.srv_name} is not offered")
        future = client.call_async(request)
        self.spin_until(future.done, timeout_s, f"service {client.srv_name} did not answer")
        return future.result()

    def start_episode(
        self,
        task: str,
        instruction: str,
        seed: int,
        *,
        correct: bool = True,
        record: bool = True,
        timeout_s: float = 20.0,
    ) -> str:
        """Start an episode, waiting until the last one is in the bank. Returns its id; RuntimeError if refused."""
        request = StartEpisode.Request(task=task, instruction=instruction, seed=seed, correct=correct, record=record)
        deadline = time.monotonic() + timeout_s
        while True:
            self._record = EpisodeRecord(EpisodeState())
            response = self.call(self._start, request)
            if response.success:
                return response.episode_id
            if time.monotonic() > deadline or NOT_SAVED_YET not in response.message:
                raise RuntimeError(f"start_episode was refused: {response.message}")
            self._executor.spin_once(timeout_sec=0.02)

    def run_episode(
        self,
        task: str,
        instruction: str,
        seed: int,
        *,
        correct: bool = True,
        record: bool = True,
        timeout_s: float = 300.0,
        watch: Callable[[], None] | None = None,
    ) -> EpisodeRecord:
        """Run one episode; return when it has ended and, where it is recorded, is in the bank or never will be."""
        episode_id = self.start_episode(task, instruction, seed, correct=correct, record=record)

        def over() -> bool:
            if watch:
                watch()
            state = self.episode
            ended = state.episode_id == episode_id and state.phase == EpisodeState.ENDED
            return ended and (state.saved or bool(state.not_saved_reason) or not record)

        self.spin_until(over, timeout_s, f"episode {episode_id} ({task}) has not ended")
        deadline = time.monotonic() + STRAGGLERS_S  # the end may have overtaken the last actions
        while len(self._record.actions) < self.episode.decisions and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        self._record.state = self.episode
        return self._record

    def abort(self, reason: str) -> None:
        self.call(self._abort, AbortEpisode.Request(reason=reason))

    def _on_episode(self, episode: EpisodeState) -> None:
        self.episode = episode

    def _on_diagnostics(self, diagnostics: DiagnosticArray) -> None:
        for status in diagnostics.status:
            self.statuses[status.name] = status
            node, _, part = status.name.partition(": ")
            if part == "state":
                self.lifecycle[node] = next((v.value for v in status.values if v.key == "lifecycle"), "")
