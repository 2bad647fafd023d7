# SPDX-License-Identifier: MIT
"""Client of a running graph in plain Python: wait until it is ready, run episodes, collect their messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rclpy
import rclpy.client
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.utilities import try_shutdown

from efn_ros.msg import BankChanged, CorrectedAction, EpisodeState, ObservationStamped
from efn_ros.ros.episodes import NOT_SAVED_YET
from efn_ros.ros.qos import ALL_STEPS, LATCHED
from efn_ros.srv import AbortEpisode, StartEpisode

LAST_ACTIONS_S = 2.0  # longest wait for actions that the end of their episode has overtaken


@dataclass
class EpisodeRecord:
    """Messages of one episode, in order."""

    state: EpisodeState  # the last one
    observations: list[ObservationStamped] = field(default_factory=list)  # empty unless the client collects them
    actions: list[CorrectedAction] = field(default_factory=list)  # corrected actions

    @property
    def success(self) -> bool:
        """Whether the episode succeeded."""
        return self.state.outcome == EpisodeState.OUTCOME_SUCCESS


class Client:
    """A ROS context with a node and its executor; a context manager, for use in one thread.

    Attributes:
        node: The client's node.
        episode: Last state of the present episode.
        bank: Last state of the bank.
        lifecycle: Node -> state of its lifecycle, from its diagnostics.
        statuses: Name -> last diagnostic status.
    """

    def __init__(self, namespace: str = "efn", *, observations: bool = False) -> None:
        """Connect to the graph of a namespace.

        Args:
            namespace: Of the graph.
            observations: Also collect the observations, with their images.
        """
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("efn_client", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.episode = EpisodeState()
        self.bank = BankChanged()
        self.lifecycle: dict[str, str] = {}
        self.statuses: dict[str, DiagnosticStatus] = {}
        self._record = EpisodeRecord(EpisodeState())
        subscribe = self.node.create_subscription
        subscribe(EpisodeState, "episode", partial(setattr, self, "episode"), LATCHED)
        subscribe(BankChanged, "bank_changed", partial(setattr, self, "bank"), LATCHED)
        subscribe(CorrectedAction, "corrected_action", self._on_action, ALL_STEPS)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        if observations:
            subscribe(ObservationStamped, "observation", self._on_observation, ALL_STEPS)
        self._start = self.node.create_client(StartEpisode, "start_episode")
        self._abort = self.node.create_client(AbortEpisode, "abort")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=0.5)
        self.node.destroy_node()
        try_shutdown(context=self._context)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Receive messages until a condition holds.

        Args:
            condition: Is checked after every message.
            timeout_s: Longest wait.
            what: What has not happened if it does not hold, for the error.

        Raises:
            TimeoutError: The condition does not hold in time.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout_s:g} s: {what}")
            self._executor.spin_once(timeout_sec=0.1)

    def spin_for(self, seconds: float) -> None:
        """Receive messages for a time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait_ready(
        self, nodes: Iterable[str], timeout_s: float = 120.0, watch: Callable[[], None] | None = None
    ) -> None:
        """Wait until every node reports that it is active.

        Args:
            nodes: Names of the nodes.
            timeout_s: Longest wait.
            watch: Is called while waiting; may raise.

        Raises:
            TimeoutError: A node is not active in time; the error names it.
        """
        nodes = set(nodes)

        def inactive() -> list[str]:
            return sorted(name for name in nodes if self.lifecycle.get(name) != "active")

        def ready() -> bool:
            if watch:
                watch()
            return not inactive()

        try:
            self.spin_until(ready, timeout_s, "the graph is not ready")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; not active: {', '.join(inactive())}") from None

    def call(self, client: rclpy.client.Client, request: Any, timeout_s: float = 10.0) -> Any:
        """Call a service and return its response.

        Raises:
            TimeoutError: The service is not offered, or does not answer in time.
        """
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
        """Start an episode once the last one is in the bank.

        Args:
            task: Short name of the task.
            instruction: Instruction of the robot.
            seed: Of the scene and of all random choices.
            correct: Whether memory may correct.
            record: Whether the bank stores the episode.
            timeout_s: Longest wait for the bank.

        Returns:
            The identifier of the episode.

        Raises:
            RuntimeError: The episode is refused; the error states why.
        """
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
        """Run one episode until it has ended and, if it is recorded, until it is saved or rejected by the bank.

        Args:
            task: Short name of the task.
            instruction: Instruction of the robot.
            seed: Of the scene and of all random choices.
            correct: Whether memory may correct.
            record: Whether the bank stores the episode.
            timeout_s: Longest duration.
            watch: Is called meanwhile; may raise.

        Raises:
            RuntimeError: The episode is refused; the error states why.
            TimeoutError: The episode does not end in time.
        """
        episode_id = self.start_episode(task, instruction, seed, correct=correct, record=record)

        def over() -> bool:
            if watch:
                watch()
            state = self.episode
            ended = state.episode_id == episode_id and state.phase == EpisodeState.ENDED
            return ended and (state.saved or bool(state.not_saved_reason) or not record)

        self.spin_until(over, timeout_s, f"episode {episode_id} ({task}) has not ended")
        deadline = time.monotonic() + LAST_ACTIONS_S
        while len(self._record.actions) < self.episode.decisions and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        self._record.state = self.episode
        return self._record

    def abort(self, reason: str) -> None:
        """Abort the present episode."""
        self.call(self._abort, AbortEpisode.Request(reason=reason))

    def _on_action(self, action: CorrectedAction) -> None:
        self._record.actions.append(action)

    def _on_observation(self, observation: ObservationStamped) -> None:
        self._record.observations.append(observation)

    def _on_diagnostics(self, diagnostics: DiagnosticArray) -> None:
        for status in diagnostics.status:
            self.statuses[status.name] = status
            node, _, part = status.name.partition(": ")
            if part == "state":
                self.lifecycle[node] = next((v.value for v in status.values if v.key == "lifecycle"), "")
