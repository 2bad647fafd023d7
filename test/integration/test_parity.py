"""The node graph and the agent in one process are the same loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction
from harness import LIBERO_SIM, TRUSTING, load_graph, remember_successes

from efn_ros.assembly import make_agent, make_simulation
from efn_ros.bank import BankReader
from efn_ros.ros.conversions import chunk_from_msg
from efn_ros.types import Mode

pytestmark = [pytest.mark.integration, pytest.mark.simulator]

EPISODES = (("reach", 0), ("drawer-close", 1), ("reach", 2))


def test_three_episodes_with_growing_memory_are_bit_for_bit_those_of_the_agent(start, tmp_path: Path):
    graph = load_graph(tmp_path, TRUSTING)
    assert tuple(node.executable for node in graph.nodes) == LIBERO_SIM
    banks = {way: tmp_path / f"bank_{way}" for way in ("nodes", "agent")}
    remember_successes(graph, banks.values(), [("reach", 100), ("drawer-close", 100)])

    running = start(TRUSTING, bank=str(banks["nodes"]))
    records = [running.run_episode(task, seed) for task, seed in EPISODES]

    bridge = graph.parameters("libero_bridge")
    world, agent = make_simulation(bridge), make_agent(graph, banks["agent"])
    try:
        results = [
            agent.run(world, task, seed, episode_id=f"agent-{i}", execute_steps=bridge["execute_steps"])
            for i, (task, seed) in enumerate(EPISODES)
        ]
    finally:
        world.close()
        agent.close()

    corrected = 0
    for record, result in zip(records, results, strict=True):
        name = f"{result.task} {result.seed}"
        assert (record.state.length, record.success) == (result.length, result.success), name
        assert len(record.actions) == len(result.corrections), name
        for action, correction in zip(record.actions, result.corrections, strict=True):
            where = f"{name}, decision {action.context.step}"
            assert (action.mode, action.reason) == (correction.mode, correction.reason), where
            assert action.confidence == correction.confidence, where
            for part in ("base", "residual", "corrected"):
                np.testing.assert_array_equal(
                    chunk_from_msg(getattr(action, part)), getattr(correction, part), err_msg=f"{where}: {part}"
                )
        corrected += sum(correction.mode == Mode.CORRECTED for correction in result.corrections)
        assert any(np.abs(correction.residual).max() > 1e-3 for correction in result.corrections), name
    assert corrected > 20, "memory corrected too little for this test to say anything"
    assert {action.mode for record in records for action in record.actions} <= {
        CorrectedAction.CORRECTED,
        CorrectedAction.BASE,
    }

    ways = [BankReader(bank).snapshot().rollouts for bank in banks.values()]
    assert [len(rollouts) for rollouts in ways] == [5, 5]
    for over_nodes, in_process in zip(*ways, strict=True):
        assert over_nodes.record.outcome == in_process.record.outcome
        for name in ("base", "executed", "residual", "latent", "proprio", "modes", "confidence", "recallable"):
            np.testing.assert_array_equal(getattr(over_nodes.arrays, name), getattr(in_process.arrays, name), name)
        np.testing.assert_array_equal(over_nodes.features, in_process.features)
