# SPDX-License-Identifier: MIT
"""What the running graph beside an AgiBot G1 publishes, subscribes to and serves is what its policy allows."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from harness import READY_S

from efn_ros.commands._sros2 import policy_file
from efn_ros.runtime.graph import Graph

pytestmark = pytest.mark.integration

BRIDGE = "agibot_g1_bridge"  # waits for an operator
ASKED = {"publish": "publisher", "subscribe": "subscriber", "reply": "service", "request": "client"}


def test_every_node_stays_within_its_rights(start):
    graph = start(name="agibot_g1", base={"**": {"diagnostics_period_s": 0.2}}, ready=False)
    graph.wait_active(*(name for name in Graph.load("agibot_g1").names if name != BRIDGE))
    client = graph.client
    graph.spin_until(lambda: client.lifecycle.get(BRIDGE) == "inactive", "the bridge says nothing", READY_S)
    profiles = {profile.get("node"): profile for profile in ElementTree.parse(policy_file("agibot_g1")).iter("profile")}
    for name in graph.graph.names:
        for right, what in ASKED.items():
            found = getattr(client.node, f"get_{what}_names_and_types_by_node")(name, "/efn")
            allowed = {e.text for group in profiles[name].findall(f"*[@{right}='ALLOW']") for e in group}
            assert {topic for topic, _ in found} <= allowed, (name, right)
            assert found or right == "request"
