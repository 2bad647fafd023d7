# SPDX-License-Identifier: MIT
"""A running system forgets when it is told to, and keeps to its budget."""

import pytest
from efn_ros.msg import CorrectedAction
from efn_ros.srv import ForgetRollouts

from efn_ros.ros.qos import STEPS

pytestmark = [pytest.mark.integration, pytest.mark.simulator]


def test_what_is_removed_is_not_recalled_in_the_next_episode_and_a_budget_holds(start):
    graph = start({"bank_writer": {"retention": {"strategy": "recency", "rollouts": 3}}})
    forget = graph.client.node.create_client(ForgetRollouts, "bank_writer/forget")

    def ask(**request):
        return graph.client.call(forget, ForgetRollouts.Request(**request))

    ids = [graph.run_episode("reach", seed).state.episode_id for seed in range(4)]
    removed = len(ids) + 1  # revisions: four rollouts, then one that went
    graph.spin_until(lambda: graph.client.bank.revision >= removed, "the budget is not kept")
    assert graph.client.bank.rollouts == 3
    assert [r.record.id for r in graph.rollouts()] == ids[1:], "the oldest went"

    told = ask(where=["task=reach", f"id={ids[2]}"], dry_run=True)
    assert (told.success, list(told.rollouts)) == (True, [ids[2]]) and "1 rollouts" in told.message
    assert len(graph.rollouts()) == 3
    for where, why in (([], "where is empty"), (["colour=red"], "names 'colour'")):
        refused = ask(where=where)
        assert not refused.success and why in refused.message and not refused.rollouts

    told = ask(where=[f"id={ids[2]}"], reason="it taught nothing")
    assert told.success and list(told.rollouts) == [ids[2]]
    graph.spin_until(lambda: graph.client.bank.revision == told.revision, "nobody is told")
    assert [r.record.id for r in graph.rollouts()] == [ids[1], ids[3]]

    actions = graph.collect(CorrectedAction, "corrected_action", STEPS)
    last = graph.run_episode("reach", 9).state
    sources = {action.rollout_id for action in actions} - {""}
    assert sources and sources <= {ids[1], ids[3]}, "memory goes on without it"
    assert [r.record.id for r in graph.rollouts()] == [ids[1], ids[3], last.episode_id]
