"""A budget is kept, whatever the strategy, and each strategy lets go of what it says."""

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


def held(rollouts):
    records = [r.record for r in rollouts]
    return len(records), sum(r.decisions for r in records), sum(r.payload_size for r in records)


@settings(max_examples=100, deadline=None)
@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    max_rollouts=st.integers(0, 14),
    steps=st.integers(0, 40),
    size=st.integers(0, 200_000),
)
def test_a_budget_is_kept_with_no_more_than_has_to_go(rollouts, strategy, max_rollouts, steps, size):
    retention = Retention(strategy, max_rollouts, steps, size)
    gone = retention.excess(rollouts)
    left = [r for r in rollouts if r not in gone]
    limits = [limit or np.inf for limit in (max_rollouts, steps, size)]
    within = lambda kept: all(h <= limit for h, limit in zip(held(kept), limits, strict=True))  # noqa: E731
    assert within(left) or len(left) == 1, "the last one stays, whatever the budget"
    assert not gone or not within([*left, gone[-1]])
    assert len(set(names(gone))) == len(gone)


def test_a_strategy_orders_all_and_none_twice(rollouts):
    for strategy in STRATEGIES.values():
        assert sorted(strategy(rollouts)) == list(range(len(rollouts)))


def test_recency_drops_the_oldest(rollouts):
    assert names(Retention("recency", rollouts=9).excess(rollouts)) == ["r0", "r1", "r2"]


def test_a_reservoir_gives_every_rollout_that_ever_was_the_same_chance(rollouts):
    """One by one or all at once, the same stay; and over many banks each place in time survives equally often."""
    retention, kept = Retention("reservoir", rollouts=4), []
    for rollout in rollouts:
        kept.append(rollout)
        gone = retention.excess(kept)
        kept = [r for r in kept if r not in gone]
    assert set(names(kept)) == set(names(rollouts)) - set(names(retention.excess(rollouts)))

    survived = np.zeros(12)
    for bank in range(400):
        renamed = [
            dataclasses.replace(r, record=dataclasses.replace(r.record, id=f"{bank}-{i}"))
            for i, r in enumerate(rollouts)
        ]
        gone = set(names(retention.excess(renamed)))
        survived += [r.record.id not in gone for r in renamed]
    share = survived / 400
    assert abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 400), "four standard deviations"


def test_success_and_shorter_drops_failures_then_the_longest_of_the_task_that_has_most(rollouts):
    gone = Retention("success_shorter", rollouts=7).excess(rollouts)
    assert {r.record.task for r in gone[:3]} == {"c"}, "six of twelve are of that task"
    assert names(gone[:1]) == ["r8"], "its one failure"
    assert names(gone[1:3]) == ["r11", "r10"], "then its longest successes"
    assert names(gone)[3:] == ["r0", "r4"], "then each task has three, and its failure goes"


def test_the_diverse_keep_what_is_rare(tmp_path):
    """Nine rollouts that saw the same and one that saw something else: a plain reservoir would mostly lose it."""
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
        (("newest",), "retention.strategy is 'newest'; there are 'keep_all', 'reservoir'"),
        (("recency", -1), "retention.rollouts is -1; it must be at least 0"),
        ((KEEP_ALL, 0, 100), "retention.strategy is 'keep_all', but there is a budget; name reservoir"),
    ],
)
def test_what_could_not_be_kept_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Retention(*arguments)


def test_without_a_budget_nothing_ever_goes(rollouts):
    assert Retention().excess(rollouts) == [] and Retention("recency").excess(rollouts) == []


def test_a_writer_keeps_to_its_budget_and_says_what_went(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION, retention=Retention("recency", rollouts=3)) as writer:
        went = []
        for i in range(6):
            writer.append(make_rollout(f"r{i}"))
            went.append(writer.retain())
        assert went == [[], [], [], ["r0"], ["r1"], ["r2"]] and writer.rollouts == 3
        told = writer._catalogue.execute("SELECT id, reason FROM forgotten ORDER BY serial").fetchall()
    assert told == [(f"r{i}", "over budget, recency") for i in range(3)]
    assert names(BankReader(tmp_path).snapshot(verified=True).rollouts) == ["r3", "r4", "r5"]
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        assert writer.retain() == []


def test_a_disk_that_does_not_answer_costs_no_rollout(tmp_path, monkeypatch):
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
                writer.retain()
        assert writer.rollouts == 3 and len(writer.retain()) == 1


def test_what_is_corrupt_counts_and_goes_first(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION, retention=Retention("diverse", rollouts=2)) as writer:
        for name in "abc":
            writer.append(make_rollout(name))
        (record,) = [r for r in BankReader(tmp_path).rollouts() if r.id == "b"]
        path = tmp_path / "payloads" / record.payload
        path.write_bytes(path.read_bytes()[:500])
        assert writer.retain() == ["b"]
