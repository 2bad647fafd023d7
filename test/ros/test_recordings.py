"""A graph that was recorded gives the rollouts that its bank_writer wrote, byte for byte, or says what it left out."""

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
from efn_ros.ros.recordings import rollouts
from efn_ros.types import Outcome


def as_run(name, decisions=3, **fields):
    """A rollout such as a graph makes: it is of the policy that its steps name."""
    made = make_rollout(name, decisions)
    steps = [dataclasses.replace(s, policy_step=dataclasses.replace(s.policy_step, policy="p")) for s in made.steps]
    return dataclasses.replace(made, policy="p", steps=tuple(steps), **fields)


ROLLOUTS = [as_run("a", outcome=Outcome.FAILURE), as_run("b", 4, start_ns=5 * 10**9), as_run("c", 2)]
SAID = of_graph(*ROLLOUTS)


def found(path):
    """The rollouts of a bag, and what was told of the others."""
    told = []
    with open_bag(path) as bag:
        assert bag.of_graph
        return list(rollouts(bag, "arm", told.append)), told


def payloads(directory, remembered):
    with BankWriter(directory, projection=PROJECTION) as writer:
        for rollout in remembered:
            writer.append(rollout)
    records = BankReader(directory).rollouts()
    return {record.id: (directory / PAYLOADS / record.payload).read_bytes() for record in records}


@pytest.mark.parametrize(("storage", "compression"), STORED, ids=lambda value: value.name.lower())
def test_payloads_are_those_that_were_written(tmp_path, storage, compression):
    imported, told = found(write_bag(tmp_path / "bag", at(SAID), storage, compression))
    assert not told and [rollout.episode_id for rollout in imported] == ["a", "b", "c"]
    assert payloads(tmp_path / "imported", imported) == payloads(tmp_path / "live", ROLLOUTS)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    return tmp_path_factory.mktemp("bags")


@given(st.randoms(use_true_random=False))
def test_the_order_of_arrival_within_an_episode_does_not_matter(bags, order):
    said = []
    for rollout in ROLLOUTS:
        begun, *parts, ended, saved = of_graph(rollout)
        within = [begun, *parts, ended]
        order.shuffle(within)
        states = iter([begun, ended])
        said += [next(states) if type(message) is EpisodeState else (topic, message) for topic, message in within]
        said.append(saved)
    path = bags / str(len(list(bags.iterdir())))
    imported, told = found(write_bag(path, at(said), compression=CompressionMode.NONE))
    assert not told and [rollout.episode_id for rollout in imported] == ["a", "b", "c"]
    for rollout, expected in zip(imported, ROLLOUTS, strict=True):
        assert [s.policy_step.context for s in rollout.steps] == [s.policy_step.context for s in expected.steps]


def without(said, *left_out):
    return [pair for i, pair in enumerate(said) if i not in left_out]


def test_an_episode_whose_beginning_or_end_is_not_there_is_told_of_and_left_out(tmp_path):
    first, last = of_graph(ROLLOUTS[0]), of_graph(ROLLOUTS[2])
    said = [*first[1:], *of_graph(ROLLOUTS[1]), *last[:-2]]
    imported, told = found(write_bag(tmp_path / "bag", at(said)))
    assert [rollout.episode_id for rollout in imported] == ["b"]
    assert told == [
        "episode a is left out: its beginning was missed",
        "episode c is left out: its end was missed",
    ]


def test_an_episode_that_lacks_its_first_decision_or_all_is_left_out(tmp_path):
    first, second = of_graph(ROLLOUTS[0]), of_graph(ROLLOUTS[1])
    nothing_whole = [pair for pair in second if "corrected_action" not in pair[0]]
    imported, told = found(write_bag(tmp_path / "bag", at([*without(first, 1, 2, 3), *nothing_whole])))
    assert not imported and told == [
        "episode a is left out: its beginning was missed",
        "episode b is left out: it held no whole step",
    ]


def test_a_first_decision_that_nobody_answered_is_a_gap(tmp_path):
    imported, told = found(write_bag(tmp_path / "bag", at(without(of_graph(ROLLOUTS[1]), 3))))
    assert [s.observation.context.step for s in imported[0].steps] == [1, 2, 3]
    assert told == ["episode b lacks 1 of its decisions"]


def test_decisions_that_the_bag_lacks_are_told_of(tmp_path):
    said = of_graph(ROLLOUTS[1])
    imported, told = found(write_bag(tmp_path / "bag", at(without(said, 5))))
    assert [s.observation.context.step for s in imported[0].steps] == [0, 2, 3]
    assert told == ["episode b lacks 1 of its decisions"]
    said[-1][1].decisions = said[-2][1].decisions = 6
    assert found(write_bag(tmp_path / "more", at(said)))[1] == ["episode b lacks 2 of its decisions"]


def test_an_episode_that_another_one_cut_off_was_aborted_and_counts_its_decisions(tmp_path):
    said = [*of_graph(ROLLOUTS[0])[:-2], *of_graph(ROLLOUTS[1])]
    imported, _ = found(write_bag(tmp_path / "bag", at(said)))
    assert [(r.episode_id, r.outcome, r.length) for r in imported] == [
        ("a", Outcome.ABORTED, 3),
        ("b", Outcome.SUCCESS, ROLLOUTS[1].length),
    ]


def test_what_was_not_to_be_remembered_is_not(tmp_path):
    said = of_graph(*ROLLOUTS[:2])
    for _, message in said:
        context = getattr(message, "context", message)
        context.record = context.episode_id != "a"
    imported, told = found(write_bag(tmp_path / "bag", at(said)))
    assert [rollout.episode_id for rollout in imported] == ["b"] and not told


@pytest.mark.parametrize("kind", ["EpisodeState", "ObservationStamped", "PolicyStepStamped", "CorrectedAction"])
def test_a_topic_of_the_graph_that_was_not_recorded_is_named(tmp_path, kind):
    said = [(topic, message) for topic, message in SAID if type(message).__name__ != kind]
    with pytest.raises(ValueError, match=f"bag holds no message of efn_ros/msg/{kind}"):
        found(write_bag(tmp_path / "bag", at([*said, ("/efn/bank_changed", BankChanged())])))


def test_two_graphs_in_one_bag_are_refused(tmp_path):
    said = [*SAID, *of_graph(ROLLOUTS[0], namespace="/other")]
    message = "holds efn_ros/msg/ObservationStamped on /efn/observation and /other/observation; record one of them"
    with pytest.raises(ValueError, match=message):
        found(write_bag(tmp_path / "bag", at(said)))


def test_of_a_bag_that_is_cut_short_nothing_is_remembered(tmp_path):
    path = write_bag(tmp_path / "bag", at(SAID))
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 9", "message_count: 10"))
    with open_bag(path) as bag, pytest.raises(ValueError, match="is cut short: it lacks 4 messages"):
        next(rollouts(bag, "arm", print))


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        (
            "observation",
            lambda m: m.cameras.pop(),
            "/efn/observation holds a message of efn_ros/msg/ObservationStamped that cannot be read",
        ),
        (
            "policy_step",
            lambda m: setattr(m.base, "horizon", 99),
            "cannot be read: a field holds 12 numbers, but its shape",
        ),
        ("corrected_action", lambda m: setattr(m, "mode", 77), "cannot be read: 77 is not a valid Mode"),
    ],
)
def test_messages_that_contradict_themselves_are_named(tmp_path, part, change, says):
    said = of_graph(ROLLOUTS[0])
    change(next(message for topic, message in said if topic == f"/efn/{part}"))
    with pytest.raises(ValueError, match=says):
        found(write_bag(tmp_path / "bag", at(said)))


def test_bytes_that_are_no_message_are_named(tmp_path):
    said = [(topic, (type_of(message), b"\0\1\0\0rub") if "policy" in topic else message) for topic, message in SAID]
    with pytest.raises(
        ValueError, match="/efn/policy_step holds a message of efn_ros/msg/PolicyStepStamped that cannot be read"
    ):
        found(write_bag(tmp_path / "bag", at(said)))
