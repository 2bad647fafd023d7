# SPDX-License-Identifier: MIT
"""The node graph and the agent in one process are the same loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from efn_ros.msg import CorrectedAction
from harness import METAWORLD_SIM, PACKAGED, TRUSTING, load_graph, merged, store_successes

from efn_ros.bank import BankReader
from efn_ros.resources import config_directory
from efn_ros.ros.conversions import correction_from_msg
from efn_ros.runtime.experiments import OPTIONS
from efn_ros.runtime.factory import make_agent, make_simulation
from efn_ros.types import Correction, Mode

pytestmark = [pytest.mark.integration, pytest.mark.simulator]

EPISODES = (("reach", 0), ("drawer-close", 1), ("reach", 2))
# Of the arrays of a rollout; `source` names an episode, which is another one on each side.
KEPT = (
    "base",
    "executed",
    "residual",
    "latent",
    "proprio",
    "modes",
    "confidence",
    "recallable",
    "proposed",
    "proposes",
)
KEPT = (*KEPT, "clipped", "explored", "source_step")


def test_three_episodes_with_growing_memory_are_bit_for_bit_those_of_the_agent(start, tmp_path: Path):
    actions, corrections = run_both(start, tmp_path, EPISODES, PACKAGED)
    assert sum(c.mode == Mode.CORRECTED for c in corrections) > 20, "memory corrected too little to say anything"
    for seed in {c.context.seed for c in corrections}:
        assert any(np.abs(c.residual).max() > 1e-3 for c in corrections if c.context.seed == seed), seed
    assert {action.mode for action in actions} <= {CorrectedAction.CORRECTED, CorrectedAction.BASE}
    assert {correction.exploration for correction in corrections} <= {"", "noise"}, "as the simulation comes"


def test_exploration_is_bit_for_bit_those_of_the_agent(start, tmp_path: Path):
    """Branches are drawn from what came over the wire; half of the episodes explore, by their seeds."""
    seeds = exploring, plain = 1, 2
    explores = {"exploration.mode": "branch", "exploration.max_confidence": 1.0, "exploration.episode_fraction": 0.5}
    _, corrections = run_both(
        start, tmp_path, [("reach", seed) for seed in seeds], merged(TRUSTING, {"efn_corrector": explores})
    )
    explored = {c.context.seed for c in corrections if c.exploration == "branch"}
    assert explored == {exploring}
    assert any(not np.array_equal(c.residual, c.proposed) for c in corrections if c.context.seed == exploring)
    assert all(c.exploration == "" for c in corrections if c.context.seed == plain)
    records = BankReader(tmp_path / "bank_nodes").rollouts()
    assert [set(record.explored) for record in records[-2:]] == [{"branch"}, set()]


def test_reranking_by_images_is_bit_for_bit_that_of_the_agent(start, tmp_path: Path):
    """The image reaches memory on a topic of its own, in time for the request."""
    from sample_checkpoints import clip, save

    encoder = save(tmp_path / "encoder", clip)
    options = {"encoder": str(encoder), "camera": "left", "weight": 5.0, "shortlist": 16, "wait_s": 5.0}
    layer = {"experience_retrieval": {f"{OPTIONS}{name}": value for name, value in options.items()}}
    document = str(config_directory() / "experiments" / "image_reranking.yaml")
    episodes = [("reach", 1), ("reach", 2)]
    _, corrections = run_both(start, tmp_path, episodes, merged(TRUSTING, layer), name=document)
    assert sum(c.mode == Mode.CORRECTED for c in corrections) > 20


def run_both(
    start, tmp_path: Path, episodes, parameters, name="metaworld_sim"
) -> tuple[list[CorrectedAction], list[Correction]]:
    """Episodes over the nodes and in the agent, which must be the same; all actions and all corrections."""
    graph = load_graph(tmp_path, parameters, name=name)
    assert graph.names == METAWORLD_SIM
    banks = {side: tmp_path / f"bank_{side}" for side in ("nodes", "agent")}
    remembered = [("reach", 100), ("drawer-close", 100)]
    store_successes(graph, banks.values(), remembered)

    running = start(parameters, name=name, bank=str(banks["nodes"]))
    records = [running.run_episode(task, seed) for task, seed in episodes]

    world, agent = make_simulation(graph.world), make_agent(graph, banks["agent"])
    try:
        results = [
            agent.run(world, task, seed, episode_id=f"agent-{i}", execute_steps=graph.world["execute_steps"])
            for i, (task, seed) in enumerate(episodes)
        ]
    finally:
        world.close()
        agent.close()

    for record, result in zip(records, results, strict=True):
        name = f"{result.task} {result.scene}"
        assert (record.state.length, record.success) == (result.length, result.success), name
        assert len(record.actions) == len(result.corrections), name
        for action, correction in zip(record.actions, result.corrections, strict=True):
            where = f"{name}, decision {action.context.step}"
            for part in ("mode", "reason", "confidence", "exploration", "clipped", "limited"):
                assert getattr(action, part) == getattr(correction, part), f"{where}: {part}"
            for part in ("base", "residual", "corrected", "proposed"):
                np.testing.assert_array_equal(
                    getattr(correction_from_msg(action), part), getattr(correction, part), err_msg=f"{where}: {part}"
                )

    sides = [BankReader(bank).snapshot().rollouts for bank in banks.values()]
    assert [len(rollouts) for rollouts in sides] == [len(remembered) + len(episodes)] * 2
    for over_nodes, in_process in zip(*sides, strict=True):
        assert over_nodes.record.outcome == in_process.record.outcome
        assert over_nodes.record.explored == in_process.record.explored
        for name in KEPT:
            np.testing.assert_array_equal(getattr(over_nodes.arrays, name), getattr(in_process.arrays, name), name)
        for name, array in vars(in_process.steps).items():
            np.testing.assert_array_equal(getattr(over_nodes.steps, name), array, name)
    return [a for r in records for a in r.actions], [c for r in results for c in r.corrections]
