# SPDX-License-Identifier: MIT
"""The example scripts beside a real graph, in which the example backbone is the policy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import harness
import pytest

from efn_ros.bank import BankReader
from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client
from efn_ros.runtime.graph import Graph

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMEOUT_S = 60.0

pytestmark = [pytest.mark.integration, pytest.mark.simulator]


class Script:
    """A running example, with its output in a file."""

    def __init__(self, output: Path, name: str, *arguments: str) -> None:
        self._output = output
        with output.open("wb") as file:
            command = [sys.executable, EXAMPLES / name, *arguments]
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    @property
    def text(self) -> str:
        return self._output.read_text()

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while words not in self.text:
            assert self._process.poll() is None and time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> str:
        assert self._process.wait(TIMEOUT_S) == 0, self.text
        return self.text

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def script(tmp_path: Path, own_domain: None) -> Iterator[Callable[..., Script]]:
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> Script:
            output = tmp_path / f"{name}_{time.monotonic_ns()}.txt"
            running = Script(output, name, *arguments)
            stack.callback(running.kill)
            return running

        yield start


@pytest.fixture
def bank(tmp_path: Path, installed_backbone: Path, own_domain: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bank of a running graph with the example backbone."""
    path = os.pathsep.join(filter(None, [str(installed_backbone), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    overlay = harness.write_overlay(tmp_path / "quick.yaml", {"**": {"diagnostics_period_s": 0.2}})
    bank, logs = tmp_path / "bank", tmp_path / "log"
    graph = Graph.load("metaworld_sim", [EXAMPLES / "backbone" / "tiny_vla.yaml", overlay], bank=str(bank))
    with Bringup(graph, output=logs) as bringup, Client() as client:
        client.wait_ready(graph.names, watch=bringup.watch)
        assert "policy tiny_vla-" in (logs / "vla_policy.log").read_text()
        yield bank


def test_the_subscriber_prints_the_actions_of_an_episode_and_the_runner_its_outcome_or_cancels_it(script, bank):
    subscriber = script("subscribe.py")
    runner = script("run_episode.py", "drawer-close", "close the drawer", "--seed", "3")
    assert "in the bank: True" in runner.ended()
    (last,) = BankReader(bank).rollouts()
    assert last.task == "drawer-close" and last.seed == 3 and last.policy.startswith("tiny_vla-")
    assert f"after {last.length} control steps" in runner.text and "1 actions, 0 corrected, now base" in runner.text

    subscriber.wait_for(f"step {last.decisions - 1}, mode 1 ")
    cancelled = script("run_episode.py", "reach", "reach the red ball")
    cancelled.wait_for("2 actions")
    cancelled.interrupt()
    assert "aborted after" in cancelled.ended()
    subscriber.interrupt()
    subscriber.ended()
