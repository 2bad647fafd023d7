# SPDX-License-Identifier: MIT
"""Recall whose rollouts are chosen by visual features instead of by the instruction."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_rollouts import PROJECTION, make_rollout, make_step

from efn_ros.bank import BankCorruptionError, BankReader, BankWriter, Snapshot
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.types import Outcome

OTHER = np.eye(8, dtype=np.float32)[1]  # an instruction


def fill(directory, rollouts, **options):
    with BankWriter(directory, projection=PROJECTION) as writer:
        for rollout in rollouts:
            writer.append(rollout)
    return BankReader(directory, **options)


def everything(**options):
    return RetrievalConfig(search="everything", **options)


def at(step, index=0, episode="now", **changed):
    """A recorded decision as the query of a decision of a new episode."""
    step = getattr(step, "policy_step", step)
    context = dataclasses.replace(step.context, episode_id=episode, step=index)
    return dataclasses.replace(step, context=context, **changed)


def query(seed):
    return make_step("query", rng=np.random.default_rng([5, seed])).policy_step


def names(recall):
    return set(recall.steps.rollout_id)


def selected(recall):
    return recall.steps[recall.selected].rollout_id, recall.steps[recall.selected].step


@pytest.fixture(scope="module")
def rollouts():
    outcomes = (Outcome.SUCCESS, Outcome.FAILURE)
    return [make_rollout(f"r{i}", 2 + i % 5, outcome=outcomes[i % 2], length=8 + 5 * i) for i in range(12)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, rollouts):
    return fill(tmp_path_factory.mktemp("bank"), rollouts)


class FixedBank:
    """A bank with a fixed snapshot."""

    def __init__(self, snapshot):
        self._snapshot = snapshot

    def snapshot(self):
        return self._snapshot


def cosine(a, b):
    a, b = (key.dequantise().astype(float) for key in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def most_similar(rollouts, step, hits, most, max_steps=100_000):
    """Names of the rollouts of the most similar steps, by every cosine."""
    ranked = sorted(
        ((cosine(s.policy_step.key, step.key), r) for r in rollouts for s in r.steps), key=lambda found: -found[0]
    )
    distinct = list(dict.fromkeys(rollout.episode_id for _, rollout in ranked[:hits]))[:most]
    sizes = {rollout.episode_id: len(rollout.steps) for rollout in rollouts}
    return [name for i, name in enumerate(distinct) if i == 0 or sum(sizes[n] for n in distinct[: i + 1]) <= max_steps]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    hits=st.integers(1, 60),
    max_rollouts=st.integers(1, 14),
    max_steps=st.integers(1, 60),
    success_only=st.booleans(),
)
def test_recall_equals_that_of_a_bank_with_only_the_rollouts_of_the_most_similar_steps(
    reader, rollouts, seed, hits, max_rollouts, max_steps, success_only
):
    step = query(seed)
    recall = Retriever(
        reader, everything(hits=hits, max_rollouts=max_rollouts, max_steps=max_steps, success_only=success_only, k=9)
    ).recall(step)
    eligible = [r for r in rollouts if r.outcome == Outcome.SUCCESS or not success_only]
    chosen = most_similar(eligible, step, hits, max_rollouts, max_steps)
    whole = reader.snapshot()
    fixed = Snapshot.of([r for r in whole.rollouts if r.record.id in chosen], whole.revision, whole.projection)
    expected = Retriever(FixedBank(fixed), RetrievalConfig(k=9)).recall(step)
    assert recall.candidates == expected.candidates and recall.selected == expected.selected
    assert recall.confidence == expected.confidence and recall.revision == expected.revision
    for name in ("rollout_id", "step", "similarity", "score", "probability", "executed"):
        np.testing.assert_array_equal(getattr(recall.steps, name), getattr(expected.steps, name))


def test_the_instruction_is_ignored(reader, rollouts):
    step = rollouts[3].steps[0].policy_step
    for instruction in (OTHER, np.ones(5, np.float32)):
        recall = Retriever(reader, everything(argmax=True, lambda_=1)).recall(
            at(step, instruction_embedding=instruction)
        )
        assert selected(recall) == ("r3", 0)


def test_a_rollout_with_another_instruction_is_recalled_if_its_keys_are_similar(tmp_path):
    made = [make_rollout("instructed", 3), make_rollout("similar", 3, instruction_embedding=OTHER)]
    reader, step = fill(tmp_path, made), at(made[1].steps[1], instruction_embedding=make_step().policy_step.key.q)
    instruction = dataclasses.replace(step, instruction_embedding=made[0].steps[0].policy_step.instruction_embedding)
    assert names(Retriever(reader, RetrievalConfig(max_rollouts=1)).recall(instruction)) == {"instructed"}
    assert names(Retriever(reader, everything(max_rollouts=1)).recall(instruction)) == {"similar"}


def test_the_rollouts_are_chosen_at_every_decision(reader, rollouts):
    retriever = Retriever(reader, everything(max_rollouts=1, argmax=True))
    for index, of in enumerate((4, 7, 4, 2)):
        recall = retriever.recall(at(rollouts[of].steps[1], index))
        assert names(recall) == {f"r{of}"} and recall.candidates == len(rollouts[of].steps)


def test_the_same_query_to_the_same_bank_gives_the_same_recall(reader):
    first, second = (Retriever(reader, everything(hits=20)) for _ in range(2))
    for seed in (1, 2, 3):
        first.recall(at(query(seed), seed))
    for seed in (7, 3):
        one, other = (retriever.recall(at(query(seed), 0, "later")).steps for retriever in (first, second))
        assert list(zip(one.rollout_id, one.step, one.score, strict=True)) == list(
            zip(other.rollout_id, other.step, other.score, strict=True)
        )


def test_similarities_are_those_of_the_rollouts_with_similar_keys(reader, rollouts):
    step = rollouts[4].steps[1].policy_step
    similarities = Retriever(reader, everything(max_rollouts=1)).similarities(step)
    assert similarities.shape == (len(rollouts[4].steps),) and similarities.argmax() == 1


# Eligibility


def test_rollouts_of_another_policy_are_not_found(tmp_path):
    made = [make_rollout("mine", 3), dataclasses.replace(make_rollout("other", 3), policy="policy-2")]
    retriever = Retriever(fill(tmp_path, made), everything())
    assert names(retriever.recall(at(query(0), 0, "a", policy="policy-2"))) == {"other"}
    assert names(retriever.recall(at(query(0), 0, "b", policy=""))) == {"mine", "other"}
    assert retriever.recall(at(query(0), 0, "c", policy="?")).reason == "the bank has no rollout of this policy"


def test_a_bank_without_eligible_rollouts_gives_a_reason(tmp_path):
    assert Retriever(BankReader(tmp_path / "empty"), everything()).recall(query(0)).reason == "the bank is empty"
    reader = fill(tmp_path / "failed", [make_rollout(outcome=Outcome.FAILURE)])
    recall = Retriever(reader, everything(success_only=True)).recall(query(0))
    assert recall.reason == "the bank has no successful rollout"


def test_a_key_of_another_size_is_refused_by_name(reader):
    short = query(0).key
    short = dataclasses.replace(short, q=short.q[:5])
    with pytest.raises(ValueError, match=r"key of the query has shape \(5,\); the bank holds \(16,\)"):
        Retriever(reader, everything()).recall(dataclasses.replace(query(0), key=short))


# While the bank changes


def test_a_rollout_added_during_an_episode_is_found_in_the_next_one(tmp_path):
    made = [make_rollout(name, 3) for name in "ab"]
    retriever = Retriever(fill(tmp_path, made[:1]), everything())
    assert names(retriever.recall(at(made[1].steps[0], 0))) == {"a"}
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(made[1])
    assert retriever.prefetch().revision == 2
    recall = retriever.recall(at(made[1].steps[0], 1))
    assert names(recall) == {"a"} and recall.revision == 1
    recall = retriever.recall(at(made[1].steps[0], 0, "next"))
    assert names(recall) == {"a", "b"} and recall.revision == 2


def test_removed_rollouts_are_left_out_at_the_next_choice(tmp_path):
    made = [make_rollout(name, 3) for name in "abcd"]
    retriever = Retriever(fill(tmp_path, made[:3]), everything(max_rollouts=1, hits=1000))
    here = made[1].steps[1]
    before = retriever.recall(at(here, 0))
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.remove("b", reason="")
        writer.remove("c", reason="")
        writer.append(made[3])
    again = retriever.recall(at(here, 1))
    assert names(before) == names(again) == {"b"}, "the present candidates remain"
    recall = retriever.recall(at(made[2].steps[1], 2))
    assert names(recall) == {"a"} and recall.revision == 3, "and a new rollout is not added"
    assert names(retriever.recall(at(here, 3))) == {"a"}
    assert names(retriever.recall(at(made[3].steps[0], 0, "next"))) == {"d"}


def test_all_rollouts_of_an_episode_may_be_removed_while_it_runs(tmp_path):
    made = [make_rollout(name, 3) for name in "ab"]
    retriever = Retriever(fill(tmp_path, made), everything(max_rollouts=1))
    assert names(retriever.recall(at(made[0].steps[1], 0))) == {"a"}
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name in "ab":
            writer.remove(name, reason="")
    assert names(retriever.recall(at(made[1].steps[1], 1))) == {"a"}
    assert retriever.recall(at(made[1].steps[1], 0, "next")).reason == "the bank is empty"


# Corruption


def truncate(reader, name):
    for rollout in reader.snapshot().rollouts:
        if rollout.record.id == name:
            rollout.path.write_bytes(rollout.content()[:-1000])


def test_a_corrupt_rollout_is_reported_or_skipped_and_the_others_recalled(tmp_path):
    made = [make_rollout(name, 3) for name in "abc"]
    truncate(fill(tmp_path, made), "b")
    step = at(made[1].steps[1])
    with pytest.raises(BankCorruptionError, match="rollout 'b'"):
        Retriever(BankReader(tmp_path), everything()).recall(step)
    reader = BankReader(tmp_path, skip_corrupt=True)
    assert names(Retriever(reader, everything()).recall(step)) == {"a", "c"} and reader.corrupt.keys() == {"b"}


def test_a_rollout_found_corrupt_during_an_episode_is_skipped(tmp_path):
    made = [make_rollout(name, 3) for name in "abc"]
    reader = fill(tmp_path, made, skip_corrupt=True)
    retriever = Retriever(reader, everything(max_rollouts=1))
    assert names(retriever.recall(at(made[0].steps[1], 0))) == {"a"}
    truncate(reader, "b")
    recall = retriever.recall(at(made[1].steps[1], 1))
    assert (len(recall.steps), recall.reason) == (0, "all candidates are corrupt")
    assert reader.corrupt.keys() == {"b"}
    assert names(retriever.recall(at(made[2].steps[1], 2))) == {"c"}
    assert "b" not in names(Retriever(reader, everything()).recall(at(made[1].steps[1], 0, "next")))


def test_a_lost_payload_is_corrupt(tmp_path):
    made = [make_rollout(name, 3) for name in "abc"]
    for skip in (False, True):
        directory = tmp_path / str(skip)
        reader = fill(directory, made, skip_corrupt=skip)
        retriever = Retriever(reader, everything(max_rollouts=1))
        retriever.recall(at(made[0].steps[1], 0))
        reader.snapshot().rollouts[1].path.unlink()
        if skip:
            assert not retriever.recall(at(made[1].steps[1], 1)).steps and reader.corrupt.keys() == {"b"}
        else:
            with pytest.raises(BankCorruptionError, match="rollout 'b': the file is missing"):
                retriever.recall(at(made[1].steps[1], 1))


def test_rollouts_may_be_removed_during_prefetch(tmp_path):
    reader = fill(tmp_path, [make_rollout(name, 3) for name in "ab"])
    for rollout in reader.snapshot().rollouts:
        rollout.path.unlink()
    assert Retriever(BankReader(tmp_path), everything()).prefetch().revision == 2


# References


def test_the_followed_rollout_remains_a_candidate(tmp_path):
    made = [make_rollout(name, 4) for name in "ab"]
    reader = fill(tmp_path, made)
    here = [made[0].steps[1], made[1].steps[0], made[1].steps[1], made[1].steps[2]]

    def path(margin):
        retriever = Retriever(reader, everything(max_rollouts=1, lambda_=1, argmax=True, reference_margin=margin))
        return [selected(retriever.recall(at(step, index))) for index, step in enumerate(here)]

    assert path(0.0) == path(1e-6) == [("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    assert path(1.0) == [("a", 1), ("a", 2), ("a", 3), ("b", 2)], "to the end of the rollout, then a new choice"


def test_the_followed_rollout_may_be_removed(tmp_path):
    made = [make_rollout(name, 4) for name in "ab"]
    retriever = Retriever(
        fill(tmp_path, made), everything(max_rollouts=1, lambda_=1, argmax=True, reference_margin=1.0)
    )
    assert selected(retriever.recall(at(made[0].steps[0], 0))) == ("a", 0)
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.remove("a", reason="")
    assert selected(retriever.recall(at(made[1].steps[2], 1))) == ("b", 2)
    assert selected(retriever.recall(at(made[1].steps[0], 2))) == ("b", 3)


def test_a_gap_between_decisions_drops_the_reference(tmp_path):
    made = [make_rollout(name, 4) for name in "ab"]
    retriever = Retriever(
        fill(tmp_path, made), everything(max_rollouts=1, lambda_=1, argmax=True, reference_margin=1.0)
    )
    assert selected(retriever.recall(at(made[0].steps[0], 0))) == ("a", 0)
    recall = retriever.recall(at(made[1].steps[2], 2))
    assert selected(recall) == ("b", 2) and recall.candidates == 4
