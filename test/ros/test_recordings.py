# SPDX-License-Identifier: MIT
"""A recorded graph gives the rollouts that its bank_writer wrote, byte for byte, or reports what it leaves out."""

from __future__ import annotations

import dataclasses

import pytest
from efn_ros.msg import BankChanged, EpisodeState
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionMode
from sample_bags import STORED, at, of_graph, type_of, write_bag
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.convert.rosbag import open_bag
from efn_ros.bank.format.catalogue import PAYLOADS
from efn_ros.ros.recordings import read_rollouts
from efn_ros.types import Outcome


def as_run(name, decisions=3, **fields):
    """Return a rollout as a graph makes it: its policy is that of its steps."""
    made = make_rollout(name, decisions)
    steps = [dataclasses.replace(s, policy_step=dataclasses.replace(s.policy_step, policy="p")) for s in made.steps]
    return dataclasses.replace(made, policy="p", steps=tuple(steps), **fields)


ROLLOUTS = [as_run("a", outcome=Outcome.FAILURE), as_run("b", 4, start_ns=5 * 10**9), as_run("c", 2)]
MESSAGES = of_graph(*ROLLOUTS)


def found(path):
    """Return the rollouts of a bag, and the reports of others."""
    reports = []
    with open_bag(path) as bag:
        assert bag.has_graph_messages
        return list(read_rollouts(bag, "arm", reports.append)), reports


def payloads(directory, stored):
    with BankWriter(directory, projection=PROJECTION) as writer:
        for rollout in stored:
            writer.append(rollout)
    records = BankReader(directory).rollouts()
    return {record.id: (directory / PAYLOADS / record.payload).read_bytes() for record in records}


@pytest.mark.parametrize(("storage", "compression"), STORED, ids=lambda value: value.name.lower())
def test_payloads_are_those_that_were_written(tmp_path, storage, compression):
    imported, reports = found(write_bag(tmp_path / "bag", at(MESSAGES), storage, compression))
    assert not reports and [rollout.episode_id for rollout in imported] == ["a", "b", "c"]
    assert payloads(tmp_path / "imported", imported) == payloads(tmp_path / "live", ROLLOUTS)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    return tmp_path_factory.mktemp("bags")


@given(st.randoms(use_true_random=False))
def test_the_order_of_arrival_within_an_episode_does_not_matter(bags, order):
    messages = []
    for rollout in ROLLOUTS:
        begun, *parts, ended, saved = of_graph(rollout)
        within = [begun, *parts, ended]
        order.shuffle(within)
        states = iter([begun, ended])
        messages += [next(states) if type(message) is EpisodeState else (topic, message) for topic, message in within]
        messages.append(saved)
    path = bags / str(len(list(bags.iterdir())))
    imported, reports = found(write_bag(path, at(messages), compression=CompressionMode.NONE))
    assert not reports and [rollout.episode_id for rollout in imported] == ["a", "b", "c"]
    for rollout, expected in zip(imported, ROLLOUTS, strict=True):
        assert [s.policy_step.context for s in rollout.steps] == [s.policy_step.context for s in expected.steps]


def without(messages, *left_out):
    return [pair for i, pair in enumerate(messages) if i not in left_out]


def test_an_episode_without_its_start_or_end_is_reported_and_left_out(tmp_path):
    first, last = of_graph(ROLLOUTS[0]), of_graph(ROLLOUTS[2])
    messages = [*first[1:], *of_graph(ROLLOUTS[1]), *last[:-2]]
    imported, reports = found(write_bag(tmp_path / "bag", at(messages)))
    assert [rollout.episode_id for rollout in imported] == ["b"]
    assert reports == [
        "episode a is left out: its start was missed",
        "episode c is left out: its end was missed",
    ]


def test_an_episode_without_its_first_or_any_decision_is_left_out(tmp_path):
    first, second = of_graph(ROLLOUTS[0]), of_graph(ROLLOUTS[1])
    no_complete = [pair for pair in second if "corrected_action" not in pair[0]]
    imported, reports = found(write_bag(tmp_path / "bag", at([*without(first, 1, 2, 3), *no_complete])))
    assert not imported and reports == [
        "episode a is left out: its start was missed",
        "episode b is left out: it has no complete decision",
    ]


def test_a_first_decision_without_a_correction_is_a_gap(tmp_path):
    imported, reports = found(write_bag(tmp_path / "bag", at(without(of_graph(ROLLOUTS[1]), 3))))
    assert [s.observation.context.step for s in imported[0].steps] == [1, 2, 3]
    assert reports == ["episode b lacks 1 of its decisions"]


def test_decisions_that_the_bag_lacks_are_reported(tmp_path):
    messages = of_graph(ROLLOUTS[1])
    imported, reports = found(write_bag(tmp_path / "bag", at(without(messages, 5))))
    assert [s.observation.context.step for s in imported[0].steps] == [0, 2, 3]
    assert reports == ["episode b lacks 1 of its decisions"]
    messages[-1][1].decisions = messages[-2][1].decisions = 6
    assert found(write_bag(tmp_path / "more", at(messages)))[1] == ["episode b lacks 2 of its decisions"]


def test_an_episode_that_another_one_interrupted_was_aborted_and_counts_its_decisions(tmp_path):
    messages = [*of_graph(ROLLOUTS[0])[:-2], *of_graph(ROLLOUTS[1])]
    imported, _ = found(write_bag(tmp_path / "bag", at(messages)))
    assert [(r.episode_id, r.outcome, r.length) for r in imported] == [
        ("a", Outcome.ABORTED, 3),
        ("b", Outcome.SUCCESS, ROLLOUTS[1].length),
    ]


def test_an_episode_that_is_not_recorded_is_not_imported(tmp_path):
    messages = of_graph(*ROLLOUTS[:2])
    for _, message in messages:
        context = getattr(message, "context", message)
        context.record = context.episode_id != "a"
    imported, reports = found(write_bag(tmp_path / "bag", at(messages)))
    assert [rollout.episode_id for rollout in imported] == ["b"] and not reports


@pytest.mark.parametrize("kind", ["EpisodeState", "ObservationStamped", "PolicyStepStamped", "CorrectedAction"])
def test_a_topic_of_the_graph_that_was_not_recorded_is_named(tmp_path, kind):
    messages = [(topic, message) for topic, message in MESSAGES if type(message).__name__ != kind]
    with pytest.raises(ValueError, match=f"bag holds no message of efn_ros/msg/{kind}"):
        found(write_bag(tmp_path / "bag", at([*messages, ("/efn/bank_changed", BankChanged())])))


def test_two_graphs_in_one_bag_are_refused(tmp_path):
    messages = [*MESSAGES, *of_graph(ROLLOUTS[0], namespace="/other")]
    message = "holds efn_ros/msg/ObservationStamped on /efn/observation and /other/observation; record one of them"
    with pytest.raises(ValueError, match=message):
        found(write_bag(tmp_path / "bag", at(messages)))


def test_nothing_of_a_truncated_bag_is_imported(tmp_path):
    path = write_bag(tmp_path / "bag", at(MESSAGES))
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 9", "message_count: 10"))
    with open_bag(path) as bag, pytest.raises(ValueError, match="is truncated: 4 messages"):
        next(read_rollouts(bag, "arm", print))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "observation",
            lambda m: m.cameras.pop(),
            "/efn/observation holds a message of efn_ros/msg/ObservationStamped that cannot be read",
        ),
        (
            "policy_step",
            lambda m: setattr(m.base, "horizon", 99),
            "cannot be read: a field holds 12 numbers, but its shape is",
        ),
        ("corrected_action", lambda m: setattr(m, "mode", 77), "cannot be read: 77 is not a valid Mode"),
    ],
)
def test_messages_that_contradict_themselves_are_named(tmp_path, part, change, message):
    messages = of_graph(ROLLOUTS[0])
    change(next(sent for topic, sent in messages if topic == f"/efn/{part}"))
    with pytest.raises(ValueError, match=message):
        found(write_bag(tmp_path / "bag", at(messages)))


def test_bytes_that_are_no_message_are_named(tmp_path):
    messages = [
        (topic, (type_of(message), b"\0\1\0\0rub") if "policy" in topic else message) for topic, message in MESSAGES
    ]
    with pytest.raises(
        ValueError, match="/efn/policy_step holds a message of efn_ros/msg/PolicyStepStamped that cannot be read"
    ):
        found(write_bag(tmp_path / "bag", at(messages)))
