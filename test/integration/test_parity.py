"""The node graph and the agent in one process are the same loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from efn_ros.msg import CorrectedAction
from harness import LIBERO_SIM, PACKAGED, TRUSTING, load_graph, merged, remember_successes

from efn_ros.bank import BankReader
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import EfnConfig
from efn_ros.policies.registry import load_policy
from efn_ros.ros.conversions import correction_from_msg
from efn_ros.runtime.factory import make_agent, make_simulation
from efn_ros.types import Correction, Mode

pytestmark = [pytest.mark.integration, pytest.mark.simulator]

EPISODES = (("reach", 0), ("drawer-close", 1), ("reach", 2))
# Of the arrays of a rollout; `source` names an episode, which is another one in each way.
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
KEPT = (*KEPT, "cut", "explored", "source_step")


def test_three_episodes_with_growing_memory_are_bit_for_bit_those_of_the_agent(start, tmp_path: Path):
    actions, corrections = meet(start, tmp_path, EPISODES, PACKAGED)
    assert sum(c.mode == Mode.CORRECTED for c in corrections) > 20, "memory corrected too little to say anything"
    for seed in {c.context.seed for c in corrections}:
        assert any(np.abs(c.residual).max() > 1e-3 for c in corrections if c.context.seed == seed), seed
    assert {action.mode for action in actions} <= {CorrectedAction.CORRECTED, CorrectedAction.BASE}
    assert {correction.exploration for correction in corrections} <= {"", "noise"}, "as the simulation comes"


def test_probes_are_bit_for_bit_those_of_the_agent(start, tmp_path: Path):
    """Branches are drawn from what came over the wire; half of the episodes probe, by their seeds."""
    seeds = probing, plain = 1, 2
    probes = {"exploration.mode": "branch", "exploration.max_confidence": 1.0, "exploration.rate": 0.5}
    _, corrections = meet(
        start, tmp_path, [("reach", seed) for seed in seeds], merged(TRUSTING, {"efn_corrector": probes})
    )
    probed = {c.context.seed for c in corrections if c.exploration == "branch"}
    assert probed == {probing}
    assert any(not np.array_equal(c.residual, c.proposed) for c in corrections if c.context.seed == probing)
    assert all(c.exploration == "" for c in corrections if c.context.seed == plain)
    records = BankReader(tmp_path / "bank_nodes").rollouts()
    assert [set(record.explored) for record in records[-2:]] == [{"branch"}, set()]


def test_what_images_rank_is_bit_for_bit_what_they_rank_for_the_agent(start, tmp_path: Path):
    """The image reaches the memory on a way of its own, in time for the question."""
    from sample_checkpoints import clip, save

    encoder = save(tmp_path / "encoder", clip)
    rerank = {"rerank.encoder": str(encoder), "rerank.camera": "left", "rerank.weight": 5.0}
    rerank |= {"rerank.shortlist": 16, "rerank.wait_s": 5.0}
    _, corrections = meet(
        start, tmp_path, [("reach", 1), ("reach", 2)], merged(TRUSTING, {"experience_retrieval": rerank})
    )
    assert sum(c.mode == Mode.CORRECTED for c in corrections) > 20


def test_changes_of_latent_tokens_are_bit_for_bit_those_of_the_agent(start, tmp_path: Path):
    """The visual tokens, which the decoder reads too, come over the wire."""
    spec = load_policy("pocket_vla").spec
    ones = (1.0,) * spec.proprio_size
    torch.manual_seed(0)
    efn = Efn(
        EfnConfig(
            horizon=spec.horizon, action_size=spec.action_size, latent=spec.latent, sketch=(spec.tokens[0], 128),
            bound=(0.6, 0.6, 0.6, 1.0), proprio_mean=ones, proprio_std=ones, motion_std=ones, space="latent",
            latent_bound=(0.1,) * spec.latent[1],
        )
    )  # fmt: skip
    torch.nn.init.normal_(efn.head.weight)
    efn.save_pretrained(tmp_path / "efn")
    latent = {
        "vla_policy": {"publish_visual": True},
        "efn_corrector": {"checkpoint": str(tmp_path / "efn"), "decoder_policy": "pocket_vla"},
        "experience_retrieval": {"codes": ""},
    }
    _, corrections = meet(start, tmp_path, [("reach", 0)], merged(PACKAGED, latent))
    assert {(c.mode, c.reason) for c in corrections} == {(Mode.CORRECTED, "")}
    assert all(c.residual.any() for c in corrections)


def meet(start, tmp_path: Path, episodes, parameters) -> tuple[list[CorrectedAction], list[Correction]]:
    """Episodes over the nodes and in the agent, which must be the same; all actions and all corrections."""
    graph = load_graph(tmp_path, parameters)
    assert tuple(node.executable for node in graph.nodes) == LIBERO_SIM
    banks = {way: tmp_path / f"bank_{way}" for way in ("nodes", "agent")}
    remembered = [("reach", 100), ("drawer-close", 100)]
    remember_successes(graph, banks.values(), remembered)

    running = start(parameters, bank=str(banks["nodes"]))
    records = [running.run_episode(task, seed) for task, seed in episodes]

    bridge = graph.parameters("libero_bridge")
    world, agent = make_simulation(bridge), make_agent(graph, banks["agent"])
    try:
        results = [
            agent.run(world, task, seed, episode_id=f"agent-{i}", execute_steps=bridge["execute_steps"])
            for i, (task, seed) in enumerate(episodes)
        ]
    finally:
        world.close()
        agent.close()

    for record, result in zip(records, results, strict=True):
        name = f"{result.task} {result.seed}"
        assert (record.state.length, record.success) == (result.length, result.success), name
        assert len(record.actions) == len(result.corrections), name
        for action, correction in zip(record.actions, result.corrections, strict=True):
            where = f"{name}, decision {action.context.step}"
            for part in ("mode", "reason", "confidence", "exploration", "cut", "limited"):
                assert getattr(action, part) == getattr(correction, part), f"{where}: {part}"
            for part in ("base", "residual", "corrected", "proposed"):
                np.testing.assert_array_equal(
                    getattr(correction_from_msg(action), part), getattr(correction, part), err_msg=f"{where}: {part}"
                )

    ways = [BankReader(bank).snapshot().rollouts for bank in banks.values()]
    assert [len(rollouts) for rollouts in ways] == [len(remembered) + len(episodes)] * 2
    for over_nodes, in_process in zip(*ways, strict=True):
        assert over_nodes.record.outcome == in_process.record.outcome
        assert over_nodes.record.explored == in_process.record.explored
        for name in KEPT:
            np.testing.assert_array_equal(getattr(over_nodes.arrays, name), getattr(in_process.arrays, name), name)
        for name, array in vars(in_process.steps).items():
            np.testing.assert_array_equal(getattr(over_nodes.steps, name), array, name)
    return [a for r in records for a in r.actions], [c for r in results for c in r.corrections]
