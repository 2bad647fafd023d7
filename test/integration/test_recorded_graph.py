# SPDX-License-Identifier: MIT
"""What passes by in a running graph, recorded as rosbag2 records it, is imported as what bank_writer wrote."""

from __future__ import annotations

import json

import pytest
from efn_ros.msg import CorrectedAction, EpisodeState, ObservationStamped, PolicyStepStamped
from rclpy.qos import QoSProfile
from sample_bags import MCAP, SQLITE3, write_bag

from efn_ros.bank import BankReader
from efn_ros.bank.format.catalogue import PAYLOADS
from efn_ros.commands.main import main
from efn_ros.ros.qos import ALL_LATCHED_STEPS, LATCHED

pytestmark = [pytest.mark.integration, pytest.mark.simulator]

TOPICS = {
    "episode": (EpisodeState, LATCHED),
    "observation": (ObservationStamped, ALL_LATCHED_STEPS),
    "policy_step": (PolicyStepStamped, ALL_LATCHED_STEPS),
    "corrected_action": (CorrectedAction, ALL_LATCHED_STEPS),
}


def record(node):
    """What `ros2 bag record` stores of these topics from now on: each message's bytes and when they came."""
    said = []
    for name, (kind, qos) in TOPICS.items():
        deep = QoSProfile(depth=2000, reliability=qos.reliability, durability=qos.durability)

        def store(raw, topic=f"/efn/{name}", kind=f"efn_ros/msg/{kind.__name__}"):
            said.append((topic, (kind, raw), node.get_clock().now().nanoseconds))

        node.create_subscription(kind, name, store, deep, raw=True)
    return said


def payloads(bank):
    return {record.id: (bank / PAYLOADS / record.payload).read_bytes() for record in BankReader(bank).rollouts()}


def test_a_recorded_graph_is_imported_byte_for_byte_as_it_was_stored(start, tmp_path, capsys):
    graph = start()
    said = record(graph.client.node)
    episodes = [graph.run_episode(task, seed).state.episode_id for task, seed in (("reach", 0), ("push", 1))]
    graph.run_episode("reach", 2, record=False)
    stopped = graph.start_episode("reach", 3)
    graph.spin_until(lambda: len(graph.client._record.actions) > 2, "nothing is decided")
    graph.client.abort("it is enough")
    graph.spin_until(lambda: graph.client.episode.saved, "what was aborted is not remembered")
    graph.spin_for(0.5)
    remembered = payloads(graph.bank)
    assert set(remembered) == {*episodes, stopped}
    for storage in (SQLITE3, MCAP):
        bag, bank = write_bag(tmp_path / f"bag_{storage.name}", said, storage), tmp_path / f"imported_{storage.name}"
        words = ["bank", "import", str(bank), str(bag), "--params-file", str(tmp_path / "overlay_metaworld_sim.yaml")]
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"added": list(remembered), "already_present": []}
        assert payloads(bank) == remembered
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"added": [], "already_present": list(remembered)}
