# SPDX-License-Identifier: MIT
"""Summaries of a bank, against numbers counted by hand."""

import dataclasses

import numpy as np
import pytest
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.store import summary
from efn_ros.types import Mode, Outcome

PROPOSAL = np.tile(np.float32([0.25, -0.5, 0.0]), (4, 1))


def rollout(name, *changes, task="reach", outcome=Outcome.SUCCESS):
    """One decision for each of `changes`, fields of its correction."""
    made = make_rollout(name, len(changes), outcome=outcome)
    steps = tuple(
        dataclasses.replace(step, correction=dataclasses.replace(step.correction, **change))
        for step, change in zip(made.steps, changes, strict=True)
    )
    return dataclasses.replace(made, task=task, steps=steps)


@pytest.fixture
def stored(tmp_path):
    """stored(*rollouts): the rollouts as a bank returns them."""

    def append(*rollouts):
        with BankWriter(tmp_path, projection=PROJECTION) as writer:
            for one in rollouts:
                writer.append(one)
        return BankReader(tmp_path).snapshot().rollouts

    return append


def corrected(source, step=0, mode=Mode.CORRECTED, **change):
    return {"mode": mode, "rollout_id": source, "rollout_step": step, **change}


def test_an_empty_bank_has_empty_summaries():
    assert summary.contents([]) == summary.credited([]) == summary.shadow([]) == []
    (unexplored,) = summary.exploration([])
    assert unexplored == {"mode": "none", "decisions": 0, "rollouts": 0, "successes": 0, "credited": 0}


def test_contents_are_counted_by_task_and_outcome_and_then_all(stored):
    rollouts = stored(
        rollout("a", {}, {}), rollout("b", {}), rollout("c", {}, outcome=Outcome.FAILURE), rollout("d", {}, task="push")
    )
    rows = summary.contents([r.record for r in rollouts])
    assert [(r["task"], r["outcome"], r["rollouts"], r["decisions"]) for r in rows] == [
        ("push", "success", 1, 1),
        ("reach", "success", 2, 3),
        ("reach", "failure", 1, 1),
        ("all", "", 4, 5),
    ]
    assert rows[-1]["bytes"] == sum(r.record.payload_size for r in rollouts) == sum(r["bytes"] for r in rows[:-1])


def test_rollouts_are_credited_for_corrections_in_successes(stored):
    rollouts = stored(
        rollout("first", {}, {"exploration": "noise"}, outcome=Outcome.FAILURE),
        rollout("success", corrected("first"), corrected("first", 1), corrected("second")),
        rollout("again", corrected("first", 1)),
        rollout("failure", corrected("second"), outcome=Outcome.FAILURE),
        rollout("base", corrected("second", mode=Mode.BASE), corrected("second", mode=Mode.SHADOW)),
    )
    rows = summary.credited(rollouts)
    assert [(r["rollout"], r["task"], r["outcome"], r["corrections"], r["episodes"]) for r in rows] == [
        ("first", "reach", "failure", 3, 2),
        ("second", "", "", 1, 1),
    ]
    assert rows[0]["explored"] == {"noise": 1}


def test_a_mode_of_exploration_is_credited_for_its_decisions(stored):
    rollouts = stored(
        rollout("explored", {}, {"exploration": "noise"}, {"exploration": "noise"}, outcome=Outcome.FAILURE),
        rollout("plain", corrected("explored", 1), corrected("explored", 0), corrected("removed")),
    )
    assert summary.exploration(rollouts) == [
        {"mode": "none", "decisions": 4, "rollouts": 2, "successes": 1, "credited": 2},
        {"mode": "noise", "decisions": 2, "rollouts": 1, "successes": 0, "credited": 1},
    ]


def test_shadow_mode_reports_what_would_have_changed(stored):
    shown = {"mode": Mode.SHADOW, "confidence": 0.75}
    rollouts = stored(
        rollout(
            "shown", {**shown, "proposed": PROPOSAL, "clipped": True}, {**shown, "proposed": PROPOSAL / 2}, shown, {}
        ),
        rollout("silent", {**shown, "confidence": 0.25}, outcome=Outcome.FAILURE),
        rollout("corrected", {"proposed": 9 * PROPOSAL}),
    )
    success, failure, both = summary.shadow(rollouts)
    assert (success["task"], success["outcome"], success["rollouts"], success["decisions"]) == (
        "reach",
        "success",
        1,
        3,
    )
    assert (success["proposed"], success["clipped"], success["confidence"]) == (2 / 3, 0.5, 0.75)
    assert (success["mean"], success["largest"]) == ([0.1875, 0.375, 0.0], [0.25, 0.5, 0.0])
    assert (failure["decisions"], failure["proposed"], failure["mean"], failure["largest"]) == (1, 0.0, [], [])
    assert (both["task"], both["rollouts"], both["decisions"], both["confidence"]) == ("all", 2, 4, 0.625)
