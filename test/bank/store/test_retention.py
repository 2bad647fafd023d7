# SPDX-License-Identifier: MIT
"""Retention: every strategy meets the budget, and removes the rollouts that it documents."""

import dataclasses
import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.store.retention import KEEP_ALL, STRATEGIES, Retention
from efn_ros.types import Outcome


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Twelve: three tasks, some failures, of several lengths."""
    directory = tmp_path_factory.mktemp("bank")
    with BankWriter(directory, projection=PROJECTION) as writer:
        for i in range(12):
            made = make_rollout(
                f"r{i}", 2 + i % 3, length=10 + i, outcome=Outcome.FAILURE if i % 4 == 0 else Outcome.SUCCESS
            )
            writer.append(dataclasses.replace(made, task="abc"[min(i // 3, 2)]))
    return BankReader(directory).snapshot().rollouts


def names(rollouts):
    return [rollout.record.id for rollout in rollouts]


def totals(rollouts):
    records = [r.record for r in rollouts]
    return len(records), sum(r.decisions for r in records), sum(r.payload_size for r in records)


@settings(max_examples=100, deadline=None)
@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    max_rollouts=st.integers(0, 14),
    steps=st.integers(0, 40),
    size=st.integers(0, 200_000),
)
def test_a_budget_is_met_with_as_few_removals_as_the_ranking_allows(rollouts, strategy, max_rollouts, steps, size):
    retention = Retention(strategy, max_rollouts, steps, size)
    removed = retention.excess(rollouts)
    left = [r for r in rollouts if r not in removed]
    limits = [limit or np.inf for limit in (max_rollouts, steps, size)]
    within = lambda retained: all(h <= limit for h, limit in zip(totals(retained), limits, strict=True))  # noqa: E731
    assert within(left) or len(left) == 1, "the last one stays, whatever the budget"
    assert not removed or not within([*left, removed[-1]])
    assert len(set(names(removed))) == len(removed)


def test_a_strategy_ranks_every_rollout_once(rollouts):
    for strategy in STRATEGIES.values():
        assert sorted(strategy(rollouts)) == list(range(len(rollouts)))


def test_recency_removes_the_oldest(rollouts):
    assert names(Retention("recency", rollouts=9).excess(rollouts)) == ["r0", "r1", "r2"]


def test_a_reservoir_retains_every_rollout_with_the_same_probability(rollouts):
    """Pruning one by one or at once retains the same, and over many banks each position is retained equally often."""
    retention, retained = Retention("reservoir", rollouts=4), []
    for rollout in rollouts:
        retained.append(rollout)
        removed = retention.excess(retained)
        retained = [r for r in retained if r not in removed]
    assert set(names(retained)) == set(names(rollouts)) - set(names(retention.excess(rollouts)))

    survived = np.zeros(12)
    for bank in range(400):
        renamed = [
            dataclasses.replace(r, record=dataclasses.replace(r.record, id=f"{bank}-{i}"))
            for i, r in enumerate(rollouts)
        ]
        removed = set(names(retention.excess(renamed)))
        survived += [r.record.id not in removed for r in renamed]
    share = survived / 400
    assert abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 400), "four standard deviations"


def test_success_shorter_removes_failures_then_the_longest_of_the_largest_task(rollouts):
    removed = Retention("success_shorter", rollouts=7).excess(rollouts)
    assert {r.record.task for r in removed[:3]} == {"c"}, "six of twelve are of that task"
    assert names(removed[:1]) == ["r8"], "its one failure"
    assert names(removed[1:3]) == ["r11", "r10"], "then its longest successes"
    assert names(removed)[3:] == ["r0", "r4"], "then each task has three, and its failure is removed"


def test_diverse_retains_rare_rollouts(tmp_path):
    """Nine equal rollouts and one different one, which a plain reservoir would mostly remove."""
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for i in range(9):
            writer.append(make_rollout(f"same-{i}", seed=5))
        writer.append(make_rollout("rare", seed=6))
    rollouts = BankReader(tmp_path).snapshot().rollouts
    for budget in (2, 5, 9):
        assert "rare" not in names(Retention("diverse", rollouts=budget).excess(rollouts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("newest",), "retention.strategy is 'newest'; choose one of 'keep_all', 'reservoir'"),
        (("recency", -1), "retention.rollouts is -1; it must be at least 0"),
        ((KEEP_ALL, 0, 100), "retention.strategy is 'keep_all', but there is a budget; name reservoir"),
    ],
)
def test_invalid_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Retention(*arguments)


def test_without_a_budget_no_rollout_is_removed(rollouts):
    assert Retention().excess(rollouts) == [] and Retention("recency").excess(rollouts) == []


def test_a_writer_prunes_to_its_budget_and_returns_the_removed_rollouts(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION, retention=Retention("recency", rollouts=3)) as writer:
        pruned = []
        for i in range(6):
            writer.append(make_rollout(f"r{i}"))
            pruned.append(writer.prune())
        assert pruned == [[], [], [], ["r0"], ["r1"], ["r2"]] and writer.rollouts == 3
        rows = writer._catalogue.execute("SELECT id, reason FROM forgotten ORDER BY serial").fetchall()
    assert rows == [(f"r{i}", "over budget, recency") for i in range(3)]
    assert names(BankReader(tmp_path).snapshot(verified=True).rollouts) == ["r3", "r4", "r5"]
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert writer.prune() == []


def test_an_error_of_the_disk_removes_no_rollout(tmp_path, monkeypatch):
    with BankWriter(tmp_path, projection=PROJECTION, retention=Retention("diverse", rollouts=2)) as writer:
        for name in "abc":
            writer.append(make_rollout(name))
        real = os.open

        def refuse(path, *arguments, **options):
            if str(path).endswith(".safetensors"):
                raise OSError(errno.EMFILE, "Too many open files")
            return real(path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(OSError, match="Too many open files"):
                writer.prune()
        assert writer.rollouts == 3 and len(writer.prune()) == 1


def test_corrupt_rollouts_count_and_are_removed_first(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION, retention=Retention("diverse", rollouts=2)) as writer:
        for name in "abc":
            writer.append(make_rollout(name))
        (record,) = [r for r in BankReader(tmp_path).rollouts() if r.id == "b"]
        path = tmp_path / "payloads" / record.payload
        path.write_bytes(path.read_bytes()[:500])
        assert writer.prune() == ["b"]
