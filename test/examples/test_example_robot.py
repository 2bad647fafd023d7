# SPDX-License-Identifier: MIT
"""The example of a robot: its document loads by its path, and each of its nodes configures with its parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.lifecycle import TransitionCallbackReturn

from efn_ros.commands._reference import node_class
from efn_ros.runtime.graph import Graph

DOCUMENT = Path(__file__).resolve().parents[2] / "examples" / "robot" / "arm_6dof.yaml"
NODES = ("camera_ingest", "vla_policy", "experience_retrieval", "efn_corrector", "bank_writer", "trajectory_bridge")


def test_the_document_loads_by_its_path_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = Graph.load(str(DOCUMENT))
    assert graph.name == "arm_6dof" and set(NODES) <= set(graph.names)
    bridge = next(node for node in graph.nodes if node.name == "trajectory_bridge")
    assert dict(bridge.remappings)["arm_state"] == "/joint_states"


def test_it_waits_for_the_operator_in_shadow_and_has_one_size_of_action():
    graph = Graph.load(str(DOCUMENT))
    bridge, corrector, policy = map(graph.parameters, ("trajectory_bridge", "efn_corrector", "vla_policy"))
    assert bridge["activate"] == "operator" and corrector["shadow"] and bridge["speed_scale"] < 1
    size = policy["action_size"]
    assert size == policy["proprio_size"] == len(bridge["joints.names"]) == len(corrector["limits.measured"])
    assert policy["cameras"] == graph.parameters("camera_ingest")["cameras"]
    for name in ("low", "high"):
        assert len(bridge[f"joints.{name}"]) == size and bridge[f"joints.{name}"] == corrector[f"limits.{name}"]


@pytest.mark.integration
@pytest.mark.parametrize("name", NODES)
def test_each_of_its_nodes_configures(name, tmp_path, own_domain):
    graph = Graph.load(str(DOCUMENT), bank=str(tmp_path / "bank"), autostart=False)
    file = tmp_path / "parameters.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": graph.parameters(name)}}))
    rclpy.init(args=["--ros-args", "--params-file", str(file)])
    node = node_class(name)(name)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
