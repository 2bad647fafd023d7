# SPDX-License-Identifier: MIT
"""Bring-up ends what it started, whatever ends it, and does what it was told when a node dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import END_S, METAWORLD_SIM, READY_S, UNTRAINED, merged, processes_of, write_overlay

from efn_ros.ros.client import Client

pytestmark = [pytest.mark.integration, pytest.mark.simulator, pytest.mark.alone]


@pytest.fixture
def bring_up(tmp_path: Path, run_mark: str) -> Iterator[Callable[..., subprocess.Popen]]:
    """`efn bringup metaworld_sim`, as a process of its own."""
    started = []

    def bring_up(*words: str) -> subprocess.Popen:
        parameters = merged(UNTRAINED, {"**": {"bank": str(tmp_path / "bank")}})
        overlay = write_overlay(tmp_path / "overlay.yaml", parameters)
        command = [sys.executable, "-m", "efn_ros.commands.main", "bringup", "metaworld_sim"]
        with (tmp_path / "bringup.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--params-file", str(overlay), *words], stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    yield bring_up
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    print((tmp_path / "bringup.log").read_text()[-5000:])


def node_processes(mark: str) -> dict[str, int]:
    """Node to process id."""
    running = processes_of(mark)
    return {name: pid for name in METAWORLD_SIM for pid, line in running.items() if f"__node:={name} " in line}


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"after {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_ends_every_process_within_five_seconds(bring_up, run_mark, number: signal.Signals):
    process = bring_up()
    with Client() as client:
        client.wait_ready(METAWORLD_SIM, READY_S)
        assert set(node_processes(run_mark)) == set(METAWORLD_SIM)
        process.send_signal(number)
        wait_until(lambda: process.poll() is not None and not processes_of(run_mark), "processes are left", END_S)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_a_signal_while_nodes_are_still_starting_leaves_none(bring_up, run_mark):
    process = bring_up()
    wait_until(lambda: len(node_processes(run_mark)) >= 3, "nothing starts", READY_S)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None and not processes_of(run_mark), "processes are left", END_S)


def test_a_node_that_dies_is_restarted(bring_up, run_mark):
    process = bring_up("--on-exit", "restart")
    with Client() as client:
        client.wait_ready(METAWORLD_SIM, READY_S)
        before = node_processes(run_mark)
        for name in ("efn_corrector", "camera_ingest"):
            os.kill(before[name], signal.SIGKILL)
        client.lifecycle.clear()
        wait_until(lambda: not before.items() <= node_processes(run_mark).items(), "they did not die", END_S)
        client.wait_ready(METAWORLD_SIM, READY_S)
        after = node_processes(run_mark)
        changed = {name for name in METAWORLD_SIM if before[name] != after[name]}
        assert changed == {"efn_corrector", "camera_ingest"} and process.poll() is None


def test_the_graph_stops_with_exit_code_1_where_a_death_is_to_stop_it(bring_up, run_mark, tmp_path):
    process = bring_up("--on-exit", "stop")
    with Client() as client:
        client.wait_ready(METAWORLD_SIM, READY_S)
    os.kill(node_processes(run_mark)["bank_writer"], signal.SIGKILL)
    wait_until(lambda: process.poll() is not None and not processes_of(run_mark), "processes are left", END_S)
    assert process.returncode == 1
    assert "bank_writer died with exit code -9; the graph stops" in (tmp_path / "bringup.log").read_text()
