# SPDX-License-Identifier: MIT
"""Graphs of real processes for tests, in a ROS domain of their own; every process of a test can be found."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from efn_ros.msg import EpisodeState
from rclpy.qos import QoSProfile

from efn_ros.bank import BankReader, StoredRollout
from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client
from efn_ros.runtime.agent import EpisodeResult
from efn_ros.runtime.factory import make_corrector, make_inference, make_simulation, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.types import Outcome, Rollout
from efn_ros.worlds.metaworld import TASKS

METAWORLD_SIM = (
    "episode_manager",
    "camera_ingest",
    "vla_policy",
    "experience_retrieval",
    "efn_corrector",
    "bank_writer",
    "metaworld_bridge",
)
# The network of the packaged policy with random weights: these tests are about the graph, not about success.
UNTRAINED: dict[str, dict[str, Any]] = {
    "vla_policy": {
        "policy": "untrained",
        "cameras": ["left", "right"],
        "image_size": 96,
        "proprio_size": 4,
        "action_size": 4,
        "horizon": 8,
    },
    "experience_retrieval": {"k": 16, "random_steps": 0, "codes": ""},
    "efn_corrector": {"method": "recalled_action", "gain": 0.5},  # the packaged network fits the packaged policy alone
    "**": {"diagnostics_period_s": 0.2},
}
# The packaged policy and network.
PACKAGED: dict[str, dict[str, Any]] = {
    "vla_policy": {"policy": "pocket_vla", "checkpoint": ""},
    "experience_retrieval": {"k": 8, "random_steps": 16, "codes": "packaged"},
    "efn_corrector": {"method": "learned", "checkpoint": "", "gain": 1.0, "deadline_s": 10.0},
}
# Every recall is followed, whatever its confidence, so that memory acts also on an untrained policy.
TRUSTING: dict[str, dict[str, Any]] = {"efn_corrector": {"min_confidence": 0.0, "deadline_s": 10.0}}
READY_S = 120.0
EPISODE_S = 60.0
END_S = 5.0  # within which everything has ended after SIGINT or SIGTERM
RUN_MARK = "EFN_TEST_RUN"  # in the environment of every process of a test
_domains = itertools.count(os.getpid())

Parameters = dict[str, dict[str, Any]]


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """Reserve a ROS domain that no other test run on this machine uses; above 101 its ports might be ephemeral."""
    for number in itertools.islice(_domains, 1000):
        domain = 1 + number % 101
        try:
            lock = (Path(tempfile.gettempdir()) / f"efn_test_domain_{domain}").open("w")
        except OSError:
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield domain
            return
    raise RuntimeError("all ROS domains from 1 to 101 are in use by tests")


def processes_of(run: str) -> dict[int, str]:
    """Return the running processes with `run` in their environment, except for this one: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if f"{RUN_MARK}={run}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def all_ended(run: str, timeout_s: float = END_S) -> dict[int, str]:
    """Wait until the processes of a run have ended; kill and return those that run after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (left := processes_of(run)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def merged(*layers: Parameters) -> Parameters:
    """Merge parameters by node, later layers over earlier ones."""
    result: Parameters = {}
    for layer in layers:
        for node, values in layer.items():
            result[node] = {**result.get(node, {}), **values}
    return result


def write_overlay(path: Path, parameters: Parameters) -> Path:
    """Write a parameter file, with names as they are given, and return its path."""
    path.write_text(yaml.safe_dump({f"/{node}": {"ros__parameters": values} for node, values in parameters.items()}))
    return path


@dataclass
class RunningGraph:
    """A running graph, and a client in its domain."""

    graph: Graph
    bringup: Bringup
    client: Client
    bank: Path
    logs: Path

    def spin_until(self, condition: Callable[[], bool], what: str, timeout_s: float = EPISODE_S) -> None:
        """Wait for a condition while watching the processes.

        Raises:
            TimeoutError: The condition is not met in time; the message is `what`.
        """

        def watched() -> bool:
            self.bringup.watch()
            return condition()

        self.client.spin_until(watched, timeout_s, what)

    def spin_for(self, seconds: float) -> None:
        """Receive messages for so long."""
        deadline = time.monotonic() + seconds
        self.spin_until(lambda: time.monotonic() >= deadline, "time does not pass", seconds + 60.0)

    def collect(self, kind: type, topic: str, qos: Any) -> list[Any]:
        """Return a list of all messages of a topic from now on, which grows while the client spins."""
        messages: list[Any] = []
        deep = QoSProfile(depth=2000, reliability=qos.reliability, durability=qos.durability)
        subscription = self.client.node.create_subscription(kind, topic, messages.append, deep)
        with contextlib.suppress(TimeoutError):  # a topic that is not published yet
            self.spin_until(lambda: subscription.get_publisher_count() > 0, "", 2.0)
        self.spin_for(0.2)  # until the publisher knows of it too
        return messages

    def wait_active(self, *nodes: str) -> None:
        """Wait until all nodes, or those given, report from now on that they are active."""
        names = nodes or self.graph.names
        for name in names:
            self.client.lifecycle.pop(name, None)
        self.client.wait_ready(names, READY_S, watch=self.bringup.watch)

    def start_episode(self, task: str = "reach", seed: int = 0, *, instruction: str = "", **flags: bool) -> str:
        """Start an episode and return its id."""
        return self.client.start_episode(task, instruction or TASKS[task], seed, **flags)

    def has_ended(self, episode_id: str) -> bool:
        """Return whether an episode has ended."""
        episode = self.client.episode
        return episode.episode_id == episode_id and episode.phase == EpisodeState.ENDED

    def run_episode(self, task: str = "reach", seed: int = 0, *, instruction: str = "", **flags: bool):
        """Run a whole episode, which is saved, and return its record."""
        return self.client.run_episode(
            task, instruction or TASKS[task], seed, timeout_s=EPISODE_S, watch=self.bringup.watch, **flags
        )

    def send_signal(self, node: str, number: signal.Signals) -> int:
        """Send a signal to the process of a node and return its id."""
        process = self.bringup.process(node)
        process.send_signal(number)
        return process.pid

    def wait_restarted(self, node: str, killed: int) -> None:
        """Wait until bring-up has restarted a node and the node reports that it is active."""
        self.spin_until(lambda: self.bringup.process(node).pid != killed, f"{node} is not restarted")
        self.wait_active(node)

    def log(self, node: str) -> str:
        """Return the log of a node so far."""
        path = self.logs / f"{node}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def rollouts(self) -> tuple[StoredRollout, ...]:
        """Return all rollouts of the bank, each payload compared with its checksum."""
        return BankReader(self.bank).snapshot(verified=True).rollouts


def load_graph(
    directory: Path,
    *layers: Parameters,
    name: str = "metaworld_sim",
    only: Iterable[str] = (),
    on_exit: str = "",
    overlays: Iterable[Path] = (),
    base: Parameters = UNTRAINED,
    **common: Any,
) -> Graph:
    """Return a graph with parameters laid over it (`base` first), with all of its nodes or `only` some."""
    overlay = write_overlay(directory / f"overlay_{Path(name).stem}.yaml", merged(base, *layers))
    graph = Graph.load(name, [overlay, *overlays], **common)
    nodes = tuple(node for node in graph.nodes if not only or node.name in set(only))
    return replace(graph, nodes=nodes, on_exit=on_exit or graph.on_exit)


class _Successful:
    """A writer that labels every rollout as a success, since only successes correct."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []

    def append(self, rollout: Rollout) -> None:
        self.rollouts.append(replace(rollout, outcome=Outcome.SUCCESS))

    def prune(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def store_successes(graph: Graph, banks: Iterable[Path], episodes: Iterable[tuple[str, int]]) -> list[EpisodeResult]:
    """Run base episodes (task, seed) in this process and store them, as successes, in each of `banks`."""
    from efn_ros.runtime.agent import Agent

    writing = graph.parameters("bank_writer")
    writer = _Successful()
    world = make_simulation(graph.world)
    agent = Agent(
        make_inference(graph.parameters("vla_policy")),
        make_corrector(graph.parameters("efn_corrector")),
        writer=writer,
        robot=writing["robot"],
    )
    try:
        results = [
            agent.run(
                world, task, seed, episode_id=f"remembered-{task}-{seed}", execute_steps=graph.world["execute_steps"]
            )
            for task, seed in episodes
        ]
    finally:
        world.close()
    for bank in banks:
        with make_writer(writing, bank) as out:
            for rollout in writer.rollouts:
                out.append(rollout)
    return results
