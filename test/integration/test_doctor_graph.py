# SPDX-License-Identifier: MIT
"""`./efn doctor` beside a running graph."""

from __future__ import annotations

import os
import signal

import pytest
from harness import METAWORLD_SIM

from efn_ros.commands._checks.finding import Status
from efn_ros.commands._checks.graph import check_graph

pytestmark = [pytest.mark.integration, pytest.mark.simulator]


def test_a_whole_graph_is_well_and_its_cameras_send_during_an_episode(start):
    graph = start()
    idle = list(check_graph("efn", "metaworld_sim", 3.0))
    assert {f.status for f in idle} == {Status.OK}, idle
    assert any("metaworld_bridge sends during an episode, and none runs" in f.text for f in idle)
    graph.start_episode()
    findings = list(check_graph("efn", "metaworld_sim", 3.0))
    assert {f.status for f in findings} == {Status.OK}, findings
    assert any(f"{len(METAWORLD_SIM)} active" in f.text for f in findings)
    assert sum("camera" in f.text and "messages a second" in f.text for f in findings) == 2


def test_what_a_graph_misses_is_named(start):
    graph = start(only=[name for name in METAWORLD_SIM if name != "metaworld_bridge"], on_exit="restart")
    os.kill(graph.bringup.process("bank_writer").pid, signal.SIGSTOP)
    try:
        findings = list(check_graph("efn", "metaworld_sim", 3.0))
    finally:
        os.kill(graph.bringup.process("bank_writer").pid, signal.SIGCONT)
    failed = [f.text for f in findings if f.status == Status.FAIL]
    assert "metaworld_bridge does not run" in failed
    for topic in ("camera/left/image (sensor_msgs/msg/Image)", "joint_states (sensor_msgs/msg/JointState)"):
        assert f"/efn/{topic} has no publisher" in failed
    # Whether a stopped process is found at all depends on which of the two announced itself first.
    found = {"not active: bank_writer (silent)": Status.WARN, "bank_writer does not run": Status.FAIL}
    assert any(found.get(f.text) == f.status for f in findings), findings


def test_without_a_graph_nothing_is_amiss_unless_one_should_run(run_mark):
    (finding,) = check_graph("efn", "", 0.5)
    assert finding.status == Status.OK and "none runs in /efn" in finding.text
    assert {f.status for f in check_graph("efn", "replay", 0.5)} == {Status.FAIL, Status.OK}
