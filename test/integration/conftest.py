# SPDX-License-Identifier: MIT
"""Each test has a ROS domain of its own, and leaves no process behind."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest

from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client


@pytest.fixture(autouse=True)
def run_mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """What every process that the test starts carries in its environment. Fails a test that leaves one running."""
    mark = uuid.uuid4().hex
    with harness.own_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros_log"))
        monkeypatch.setenv(harness.RUN_MARK, mark)
        yield mark
        left = harness.all_ended(mark)
    assert not left, f"the test left processes running: {left}"


@pytest.fixture
def start(run_mark: str, tmp_path: Path) -> Iterator[Callable[..., harness.RunningGraph]]:
    """start(*parameters, ...): a graph of processes, its nodes active unless `ready` is False; ended with the test."""
    with contextlib.ExitStack() as stack:
        logs = tmp_path / "log"

        def start(*layers: harness.Parameters, ready: bool = True, **settings: Any) -> harness.RunningGraph:
            bank = settings.setdefault("bank", str(tmp_path / "bank"))
            graph = harness.load_graph(tmp_path, *layers, **settings)
            client = stack.enter_context(Client(observations=True))
            bringup = stack.enter_context(Bringup(graph, output=logs))
            running = harness.RunningGraph(graph, bringup, client, Path(bank), logs)
            if ready:
                running.wait_active()
            return running

        yield start
    for log in sorted(logs.glob("*.log")):  # shown with a test that failed
        print(f"---- {log.stem}\n{log.read_text(errors='replace')[-3000:]}")
