# SPDX-License-Identifier: MIT
"""Recall, against equations (17), (18) and (19) written out in loops."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_rollouts import PROJECTION, make_rollout, make_step

from efn_ros.bank import BankCorruptionError, BankProjectionError, BankReader, BankWriter
from efn_ros.bank.store.rollout import StepsCache
from efn_ros.features.codes import SketchEncoder
from efn_ros.features.keys import unit
from efn_ros.features.sketches import quantise
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.retrieval.similarity import CueWeights
from efn_ros.types import Mode, Outcome

TWIN = ("twin-a", "twin-b")  # two rollouts that differ in their names only


def instruction(*weights):
    embedding = np.zeros(8, np.float32)
    embedding[: len(weights)] = weights
    return embedding / np.linalg.norm(embedding)


def fill(directory, rollouts):
    with BankWriter(directory, projection=PROJECTION) as writer:
        for rollout in rollouts:
            writer.append(rollout)
    return BankReader(directory, projection=PROJECTION)


@pytest.fixture(scope="module")
def rollouts():
    made = [
        make_rollout(
            f"r{i}", 2 + i % 4, length=8 + 5 * i, outcome=Outcome.SUCCESS if i % 3 else Outcome.FAILURE,
            instruction_embedding=instruction(1, i / 4),
        )
        for i in range(7)
    ]  # fmt: skip
    return made + [make_rollout(name, 3, seed=99, length=20) for name in TWIN]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, rollouts):
    return fill(tmp_path_factory.mktemp("bank"), rollouts)


def query(seed=0, step=0, **options):
    made = make_step("query", step, rng=np.random.default_rng([5, seed % 2**64]), **options).policy_step
    return dataclasses.replace(made, context=dataclasses.replace(made.context, seed=seed))


# The reference: one candidate at a time, in double precision, as the paper writes it


def cosine(a, b):
    a, b = np.asarray(a, float).ravel(), np.asarray(b, float).ravel()
    return a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)


def reference(rollouts, step, config):
    """(score, similarity, rollout_id, step) of every candidate, best first."""
    allowed = [r for r in rollouts if not config.success_only or r.outcome == Outcome.SUCCESS]

    def of_instruction(rollout):
        return round(cosine(rollout.steps[0].policy_step.instruction_embedding, step.instruction_embedding), 5)

    newest_first = sorted(reversed(allowed), key=lambda r: -of_instruction(r))[: config.max_rollouts]
    chosen = [r for r in allowed if r in newest_first]
    mean_length = sum(r.length for r in chosen) / len(chosen)
    states = [s.policy_step.proprio for r in chosen for s in r.steps]
    total = config.weights.visual + config.weights.latent + config.weights.proprio
    found = []
    for rollout in chosen:
        for recorded in rollout.steps:
            past, kernel = recorded.policy_step, 0.0
            for p in range(len(step.proprio)):
                values = [float(state[p]) for state in states]
                sigma = config.proprio_sigma or (max(values) - min(values)) / 3
                kernel += (float(past.proprio[p]) - float(step.proprio[p])) ** 2 / (2 * sigma**2) if sigma else 0
            similarity = (
                config.weights.visual * (1 + cosine(past.key.dequantise(), step.key.dequantise())) / 2
                + config.weights.latent * (1 + cosine(*(quantise(unit(s.latent.mean(0))).q for s in (past, step)))) / 2
                + config.weights.proprio * math.exp(-kernel)
            ) / total
            prior = math.exp(-config.beta * rollout.length / mean_length)
            score = config.lambda_ * similarity + (1 - config.lambda_) * prior
            if similarity >= config.min_similarity:
                found.append((score, similarity, rollout.episode_id, past.context.step))
    return sorted(found, key=lambda candidate: -candidate[0])


weights = st.floats(0.05, 1)
configs = st.builds(
    RetrievalConfig,
    max_rollouts=st.integers(1, 10),
    k=st.integers(1, 40),
    temperature=st.floats(0.01, 1),
    lambda_=st.floats(0, 1),
    beta=st.floats(0, 3),
    weights=st.builds(CueWeights, weights, weights, weights),
    proprio_sigma=st.none() | st.floats(0.5, 3),
    success_only=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(config=configs, seed=st.integers(0, 2**32))
def test_recall_follows_the_equations(reader, rollouts, config, seed):
    step = query(seed)
    recall = Retriever(reader, config).recall(step)
    expected = reference(rollouts, step, config)
    assert recall.candidates == len(expected)
    assert len(recall.steps) == min(config.k, len(expected))
    by_name = {(rollout_id, index): (score, similarity) for score, similarity, rollout_id, index in expected}
    weight = [math.exp((score - expected[0][0]) / config.temperature) for score, *_ in expected[: config.k]]
    for rank, recalled in enumerate(recall.steps):
        score, similarity = by_name[recalled.rollout_id, recalled.step]
        assert recalled.score == pytest.approx(expected[rank][0], abs=1e-5) == pytest.approx(score, abs=1e-5)
        assert recalled.similarity == pytest.approx(similarity, abs=1e-5)
        assert recalled.probability == pytest.approx(weight[rank] / sum(weight), rel=1e-2, abs=1e-6)
    assert sum(recalled.probability for recalled in recall.steps) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), floor=st.floats(0, 0.9))
def test_confidence_is_the_expected_similarity_above_the_floor_times_the_share_of_successes(reader, seed, floor):
    recall = Retriever(reader, RetrievalConfig(k=5, confidence_floor=floor)).recall(query(seed))
    above = sum(s.probability * max(0, (s.similarity - floor) / (1 - floor)) for s in recall.steps)
    successes = sum(s.outcome == Outcome.SUCCESS for s in recall.steps) / 5
    assert recall.confidence == pytest.approx(above * successes, abs=1e-6) and 0 <= recall.confidence <= 1


# Recalled steps


def test_a_stored_step_recalls_itself_first(reader, rollouts):
    for index, recorded in enumerate(rollouts[4].steps):
        recall = Retriever(reader, RetrievalConfig(lambda_=1, argmax=True)).recall(recorded.policy_step)
        first = recall.steps[recall.selected]
        assert (first.rollout_id, first.step) == ("r4", index)
        assert first.similarity == pytest.approx(1, abs=1e-4)
        np.testing.assert_array_equal(recall.sketch.q, recorded.policy_step.sketch.q)


def test_the_successor_is_recalled_and_the_last_step_is_its_own_successor(reader, rollouts):
    steps = rollouts[3].steps
    for index, recorded in enumerate(steps):
        recall = Retriever(reader, RetrievalConfig(lambda_=1, argmax=True)).recall(recorded.policy_step)
        after = steps[min(index + 1, len(steps) - 1)].policy_step
        np.testing.assert_array_equal(recall.successor.q, after.sketch.q)
        np.testing.assert_array_equal(recall.successor.scale, after.sketch.scale)
        np.testing.assert_array_equal(recall.steps[0].proprio_next, after.proprio)


def test_the_previous_chunk_is_recalled_and_is_zero_for_the_first_step(reader, rollouts):
    steps = rollouts[3].steps
    for index, recorded in enumerate(steps):
        first = Retriever(reader, RetrievalConfig(lambda_=1, argmax=True)).recall(recorded.policy_step).steps[0]
        earlier = steps[max(index - 1, 0)]
        np.testing.assert_array_equal(first.proprio_before, earlier.policy_step.proprio)
        np.testing.assert_array_equal(first.executed_before, earlier.correction.corrected if index else 0 * first.base)


def test_codes_of_recalled_steps_are_returned_with_an_encoder(reader, rollouts):
    sketches = {(r.episode_id, s.policy_step.context.step): s.policy_step.sketch for r in rollouts for s in r.steps}
    query = rollouts[3].steps[1].policy_step
    plain = Retriever(reader, RetrievalConfig(k=3, random_steps=4)).recall(query)
    assert plain.codes == "" and {step.code.shape for step in plain.steps} == {(0,)}
    rng = np.random.default_rng(0)
    codes = SketchEncoder(rng.normal(size=query.sketch.q.size), rng.normal(size=(query.sketch.q.size, 5)))
    recall = Retriever(reader, RetrievalConfig(k=3, random_steps=4, codes=codes)).recall(query)
    assert recall.codes == codes.identity and len(recall.steps) == 7
    for step in recall.steps:
        expected = (sketches[step.rollout_id, step.step].dequantise().ravel() - codes.mean) @ codes.basis
        np.testing.assert_allclose(step.code, expected, atol=1e-3)


def test_a_rollout_is_encoded_once_for_all_the_episodes_that_recall_it(reader, rollouts):
    size, asked = rollouts[0].steps[0].policy_step.sketch.q.size, []

    class Noting(SketchEncoder):
        def __call__(self, sketches):
            asked.append(len(sketches))
            return super().__call__(sketches)

    retriever = Retriever(reader, RetrievalConfig(k=50, codes=Noting(np.zeros(size), np.ones((size, 2)))))
    for episode in ("a", "b"):
        step = rollouts[3].steps[1].policy_step
        recall = retriever.recall(
            dataclasses.replace(step, context=dataclasses.replace(step.context, episode_id=episode))
        )
    assert len(asked) == len({step.rollout_id for step in recall.steps})


def test_sketches_of_another_size_are_not_encoded(reader, rollouts):
    codes = SketchEncoder(np.zeros(7), np.ones((7, 2)))
    with pytest.raises(ValueError, match="the EFN of these codes reads 7"):
        Retriever(reader, RetrievalConfig(codes=codes)).recall(rollouts[3].steps[1].policy_step)


def test_an_experience_contains_the_stored_step(reader, rollouts):
    rollout, recorded = rollouts[3], rollouts[3].steps[1]
    recall = Retriever(reader, RetrievalConfig(lambda_=1)).recall(recorded.policy_step)
    first = recall.steps[0]
    assert (first.instruction, first.outcome, first.rollout_length) == (
        rollout.instruction, rollout.outcome, rollout.length
    )  # fmt: skip
    np.testing.assert_array_equal(first.executed, recorded.correction.corrected)
    np.testing.assert_array_equal(first.base, recorded.policy_step.base)
    np.testing.assert_allclose(first.latent, recorded.policy_step.latent.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(first.proprio, recorded.policy_step.proprio)
    assert recall.revision == 9 and recall.reason == ""


def test_only_rollouts_with_the_most_similar_instructions_are_candidates(reader, rollouts):
    step = query(instruction_embedding=instruction(1, 6 / 4))
    recall = Retriever(reader, RetrievalConfig(max_rollouts=2, k=100)).recall(step)
    assert {recalled.rollout_id for recalled in recall.steps} == {"r5", "r6"}


def test_of_equally_similar_rollouts_the_newest_are_candidates(tmp_path):
    reader = fill(tmp_path, [make_rollout(f"e{i}") for i in range(5)])
    recall = Retriever(reader, RetrievalConfig(max_rollouts=2, k=100)).recall(query())
    assert {recalled.rollout_id for recalled in recall.steps} == {"e3", "e4"}


def test_the_number_of_steps_is_bounded_by_whole_rollouts(tmp_path):
    reader = fill(tmp_path, [make_rollout("old", 5), make_rollout("long", 30), make_rollout("new", 4)])
    for most, expected in ((1000, {"old", "long", "new"}), (38, {"long", "new"}), (9, {"new"}), (1, {"new"})):
        recall = Retriever(reader, RetrievalConfig(max_steps=most, k=100)).recall(query())
        assert set(recall.steps.rollout_id) == expected, most


def test_equal_candidates_rank_in_the_order_in_which_they_were_stored(reader, rollouts):
    step = rollouts[-1].steps[1].policy_step
    for k in (1, 2, 30):
        recall = Retriever(reader, RetrievalConfig(k=k)).recall(step)
        assert list(recall.steps.rollout_id[:2]) == list(TWIN[:k])


def test_of_equally_similar_steps_those_of_shorter_rollouts_rank_first(tmp_path):
    reader = fill(tmp_path, [make_rollout(name, seed=4, length=n) for name, n in (("long", 90), ("short", 30))])
    recall = Retriever(reader, RetrievalConfig(k=2)).recall(make_rollout("x", seed=4).steps[0].policy_step)
    assert [recalled.rollout_id for recalled in recall.steps] == ["short", "long"]


def test_blank_steps_are_not_recalled_but_are_successors(tmp_path):
    rollout = make_rollout(decisions=3)
    first, second, third = rollout.steps
    still = dataclasses.replace(second.policy_step, proprio=third.policy_step.proprio)
    second = dataclasses.replace(
        second, policy_step=still, correction=dataclasses.replace(second.correction, mode=Mode.HOLD)
    )
    reader = fill(tmp_path, [dataclasses.replace(rollout, steps=(first, second, third))])
    recall = Retriever(reader, RetrievalConfig(lambda_=1, argmax=True)).recall(first.policy_step)
    assert sorted(recalled.step for recalled in recall.steps) == [0, 2]
    np.testing.assert_array_equal(recall.successor.q, second.policy_step.sketch.q)


def test_a_missing_cue_leaves_its_weight_to_the_others(tmp_path):
    reader = fill(tmp_path, [make_rollout(latent=(0, 0), proprio=0)])
    step = make_rollout(latent=(0, 0), proprio=0).steps[1].policy_step
    recall = Retriever(reader, RetrievalConfig(lambda_=1)).recall(step)
    assert recall.steps[0].step == 1 and recall.steps[0].similarity == pytest.approx(1, abs=1e-4)


# Sampling


def test_samples_have_the_frequencies_of_the_softmax(reader):
    retriever, count = Retriever(reader, RetrievalConfig(k=4, temperature=0.1)), 3000
    step = query()
    retriever.begin(step)
    selected = np.zeros(4)
    for seed in range(count):
        recall = retriever.recall(dataclasses.replace(step, context=dataclasses.replace(step.context, seed=seed)))
        selected[recall.selected] += 1
    probability = np.array([recalled.probability for recalled in recall.steps])
    assert (probability > 0.01).all()
    np.testing.assert_array_less(
        np.abs(selected / count - probability), 4 * np.sqrt(probability * (1 - probability) / count)
    )


def test_the_same_seed_and_step_select_the_same_step_whatever_came_before(reader):
    config = RetrievalConfig(temperature=1.0)
    queries = [query(seed, step) for seed in (0, 1, 2**64 - 1, -1) for step in range(5)]
    forward = Retriever(reader, config)
    selected = [forward.recall(step).selected for step in queries]
    backward = Retriever(reader, config)
    assert [backward.recall(step).selected for step in reversed(queries)] == selected[::-1]
    assert len(set(selected)) > 3


def test_argmax_selects_the_best_with_probability_one(reader):
    for seed in range(20):
        recall = Retriever(reader, RetrievalConfig(temperature=10, argmax=True)).recall(query(seed))
        assert recall.selected == 0
        assert [recalled.probability for recalled in recall.steps] == [1] + [0] * 15


# Empty recalls


def test_an_empty_bank_recalls_no_step_with_a_reason(tmp_path):
    recall = Retriever(BankReader(tmp_path)).recall(query())
    assert (len(recall.steps), recall.selected, recall.sketch, recall.confidence) == (0, -1, None, 0)
    assert recall.reason == "the bank is empty"


def test_rollouts_of_another_policy_are_left_out(reader, rollouts):
    """Their tokens cannot be compared; an empty fingerprint accepts all."""
    step = dataclasses.replace(rollouts[0].steps[0].policy_step, policy="another")
    assert Retriever(reader).recall(dataclasses.replace(step, policy=rollouts[0].policy)).steps
    assert Retriever(reader).recall(dataclasses.replace(step, policy="")).steps
    recall = Retriever(reader).recall(step)
    assert (len(recall.steps), recall.reason) == (0, "the bank has no rollout of this policy")


def test_without_a_similar_step_no_step_is_recalled(reader):
    recall = Retriever(reader, RetrievalConfig(min_similarity=0.999)).recall(query())
    assert not recall.steps and recall.selected == -1 and recall.candidates > 0
    assert "no step is similar enough" in recall.reason and "0.999" in recall.reason


def test_steps_below_the_least_similarity_are_not_recalled(reader, rollouts):
    step = rollouts[2].steps[0].policy_step
    recall = Retriever(reader, RetrievalConfig(k=100, min_similarity=0.6)).recall(step)
    expected = reference(rollouts, step, RetrievalConfig(min_similarity=0.6))
    assert {(s.rollout_id, s.step) for s in recall.steps} == {candidate[2:] for candidate in expected}
    assert len(recall.steps) < recall.candidates


def test_success_only_recalls_no_failure(tmp_path):
    reader = fill(tmp_path, [make_rollout(outcome=Outcome.FAILURE)])
    recall = Retriever(reader, RetrievalConfig(success_only=True)).recall(query())
    assert recall.reason == "the bank has no successful rollout"
    assert Retriever(reader).recall(query()).confidence == 0


# Episodes


def test_an_episode_uses_the_bank_as_it_was_at_its_beginning(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(make_rollout("a"))
        retriever = Retriever(BankReader(tmp_path))
        first = query()
        assert retriever.recall(first).candidates == 3
        writer.append(make_rollout("b"))
        retriever.begin(first)
        assert (retriever.recall(first).candidates, retriever.recall(first).revision) == (3, 1)
        later = dataclasses.replace(first, context=dataclasses.replace(first.context, episode_id="another"))
        assert (retriever.recall(later).candidates, retriever.recall(later).revision) == (6, 2)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(latent=(4, 9)), r"latent of the query has shape \(9,\); the bank holds \(10,\)"),
        (dict(proprio=3), r"proprio of the query has shape \(3,\)"),
        (dict(instruction_embedding=np.ones(5, np.float32)), r"instruction embedding has shape \(5,\)"),
    ],
)
def test_a_query_of_other_sizes_is_refused_by_name(reader, options, message):
    with pytest.raises(ValueError, match=message):
        Retriever(reader).recall(query(**options))


def test_a_query_of_another_projection_is_refused_by_name(reader):
    with pytest.raises(BankProjectionError, match=f"projection another, the bank with {PROJECTION.identity}"):
        Retriever(reader).recall(dataclasses.replace(query(), projection="another"))


@pytest.mark.parametrize(
    "options",
    [
        dict(search="all"), dict(hits=0),
        dict(k=0), dict(max_rollouts=0), dict(temperature=0), dict(temperature=math.nan), dict(lambda_=1.1),
        dict(beta=-1), dict(weights=CueWeights(visual=-1)), dict(proprio_sigma=0.0), dict(min_similarity=2),
        dict(confidence_floor=1), dict(success_model_rollouts=-1),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} is "):
        RetrievalConfig(**options)


def test_some_cue_must_have_weight():
    with pytest.raises(ValueError, match="not all 0"):
        RetrievalConfig(weights=CueWeights(0, 0, 0))


# While the bank changes


def test_an_episode_continues_with_a_removed_rollout_and_the_next_one_lacks_it(tmp_path):
    made = [make_rollout(name, 3) for name in "abc"]
    fill(tmp_path, made)
    retriever = Retriever(BankReader(tmp_path, projection=PROJECTION), RetrievalConfig(lambda_=1, argmax=True))
    step = made[1].steps[1].policy_step
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        before = retriever.recall(step)
        writer.remove("b", reason="")
        again = retriever.recall(step)
        later = retriever.recall(
            dataclasses.replace(step, context=dataclasses.replace(step.context, episode_id="next"))
        )
    assert before.steps[0].rollout_id == again.steps[0].rollout_id == "b"
    np.testing.assert_array_equal(again.successor.q, before.successor.q)
    assert set(later.steps.rollout_id) == {"a", "c"} and later.candidates == 6


def test_a_corrupt_rollout_is_skipped_and_reported_and_the_others_recalled(tmp_path):
    made = [make_rollout(name, 3) for name in "abc"]
    for record in fill(tmp_path, made).rollouts():
        if record.id == "b":
            path = tmp_path / "payloads" / record.payload
            path.write_bytes(path.read_bytes()[:-1000])
    step = made[1].steps[1].policy_step
    with pytest.raises(BankCorruptionError, match="rollout 'b'"):
        Retriever(BankReader(tmp_path)).recall(step)
    reader = BankReader(tmp_path, skip_corrupt=True)
    recall = Retriever(reader).recall(step)
    assert set(recall.steps.rollout_id) == {"a", "c"} and reader.corrupt.keys() == {"b"}
    assert reader.snapshot().skipped == ("b",)


# References


def drifting(made, steps):
    """The recorded steps of a rollout as queries of one new episode, one decision after the other."""
    for index, recorded in zip(range(len(steps)), steps, strict=True):
        step = made.steps[recorded].policy_step
        yield dataclasses.replace(step, context=dataclasses.replace(step.context, episode_id="now", step=index))


def path(recalls):
    return [(r.steps[r.selected].rollout_id, r.steps[r.selected].step) for r in recalls]


def test_a_reference_is_followed_step_by_step_while_its_score_is_within_the_margin(tmp_path):
    made = [make_rollout(name, 4) for name in "ab"]
    reader = fill(tmp_path, made)
    queries = [*drifting(made[0], [1, 2]), *list(drifting(made[1], [0, 1, 2, 3]))[2:]]  # from a into the middle of b

    def recalled(margin):
        retriever = Retriever(reader, RetrievalConfig(lambda_=1, argmax=True, reference_margin=margin))
        return path(map(retriever.recall, queries))

    assert recalled(0.0) == recalled(1e-6) == [("a", 1), ("a", 2), ("b", 2), ("b", 3)]
    assert recalled(1.0) == [("a", 1), ("a", 2), ("a", 3), ("b", 3)], "to the end of the rollout, then a new choice"


def test_the_followed_step_is_among_the_k_and_has_its_successor(tmp_path):
    made = [make_rollout(name, 4) for name in "ab"]
    retriever = Retriever(fill(tmp_path, made), RetrievalConfig(k=1, lambda_=1, argmax=True, reference_margin=1.0))
    first, second = (made[0].steps[1].policy_step, made[1].steps[3].policy_step)

    def at(step, index):
        return dataclasses.replace(step, context=dataclasses.replace(step.context, episode_id="now", step=index))

    retriever.recall(at(first, 0))
    recall = retriever.recall(at(second, 1))
    assert path([recall]) == [("a", 2)] and recall.steps.probability.tolist() == [1.0]
    np.testing.assert_array_equal(recall.successor.q, made[0].steps[3].policy_step.sketch.q)


def test_a_gap_between_decisions_and_another_episode_drop_the_reference(tmp_path):
    made = [make_rollout(name, 4) for name in "ab"]
    retriever = Retriever(fill(tmp_path, made), RetrievalConfig(lambda_=1, argmax=True, reference_margin=1.0))

    def selected(rollout, step, index, episode="now"):
        query = made[rollout].steps[step].policy_step
        context = dataclasses.replace(query.context, step=index, episode_id=episode)
        return path([retriever.recall(dataclasses.replace(query, context=context))])[0]

    assert selected(0, 0, 0) == ("a", 0) and selected(1, 2, 1) == ("a", 1)
    assert selected(1, 2, 3) == ("b", 2), "a decision is missing between"
    assert selected(0, 1, 4, "next") == ("a", 1)


def test_a_damaged_sketch_excludes_its_rollout_only(tmp_path):
    made = [make_rollout(name, 3) for name in "abc"]
    records = {record.id: record for record in fill(tmp_path, made).rollouts()}
    path = tmp_path / "payloads" / records["b"].payload
    content = path.read_bytes()
    sketch = made[1].steps[1].policy_step.sketch.q.tobytes()
    path.write_bytes(content.replace(sketch, sketch[:-1] + b"?"))
    step = made[1].steps[1].policy_step
    reader = BankReader(tmp_path, skip_corrupt=True)
    recall = Retriever(reader, RetrievalConfig(argmax=True)).recall(step)
    assert set(recall.steps.rollout_id) == {"a", "c"} and reader.corrupt.keys() == {"b"}
    with pytest.raises(BankCorruptionError, match="rollout 'b'"):
        Retriever(BankReader(tmp_path), RetrievalConfig(argmax=True)).recall(step)


def test_a_rollout_removed_between_snapshot_and_reading_is_left_out(tmp_path, monkeypatch):
    made = [make_rollout(name, 3) for name in "abc"]
    reader = fill(tmp_path, made)
    real = StepsCache.load

    def late(cache, rollouts, **options):
        monkeypatch.setattr(StepsCache, "load", real)
        with BankWriter(tmp_path, projection=PROJECTION) as writer:
            writer.remove("b", reason="")
        return real(cache, rollouts, **options)

    monkeypatch.setattr(StepsCache, "load", late)
    recall = Retriever(reader).recall(made[1].steps[1].policy_step)
    assert set(recall.steps.rollout_id) == {"a", "c"} and recall.revision == 4


def test_a_rollout_with_the_identifier_of_a_removed_one_gets_its_own_codes(tmp_path):
    """Codes are cached across episodes by the content of the rollout and not by its identifier."""
    size = make_rollout().steps[0].policy_step.sketch.q.size
    codes = SketchEncoder(np.zeros(size), np.random.default_rng(0).normal(size=(size, 2)))
    retriever = Retriever(fill(tmp_path, [make_rollout("a", 2, seed=1)]), RetrievalConfig(k=9, codes=codes))
    step = make_rollout("a", 5, seed=2).steps[0].policy_step
    retriever.recall(step)
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.remove("a", reason="")
        writer.append(make_rollout("a", 5, seed=2))
    recall = retriever.recall(dataclasses.replace(step, context=dataclasses.replace(step.context, episode_id="next")))
    assert len(recall.steps) == 5
    np.testing.assert_allclose(recall.steps[0].code, codes([step.sketch])[0], atol=1e-3)


def test_an_episode_that_cannot_begin_changes_nothing(tmp_path, reader, rollouts):
    retriever, step = Retriever(reader), rollouts[0].steps[0].policy_step
    before = retriever.recall(step)
    with pytest.raises(ValueError, match="instruction embedding has shape"):
        other = dataclasses.replace(step.context, episode_id="other")
        retriever.begin(dataclasses.replace(step, context=other, instruction_embedding=np.ones(3, np.float32)))
    again = retriever.recall(step)
    assert list(again.steps.rollout_id) == list(before.steps.rollout_id) and again.reason == ""


def test_rollouts_may_be_removed_during_prefetch(tmp_path):
    retriever = Retriever(fill(tmp_path, [make_rollout(name, 3) for name in "ab"]))
    assert retriever.prefetch().revision == 2
    for record in BankReader(tmp_path).rollouts():
        (tmp_path / "payloads" / record.payload).unlink()
    assert Retriever(BankReader(tmp_path)).prefetch().revision == 2


def test_a_recall_contains_the_success_probability_fitted_to_past_outcomes(tmp_path):
    def rollout(i):
        made = make_rollout(f"r{i}", 2, outcome=Outcome.SUCCESS if i % 4 else Outcome.FAILURE)
        steps = [
            dataclasses.replace(s, correction=dataclasses.replace(s.correction, rollout_id="r")) for s in made.steps
        ]
        return dataclasses.replace(made, steps=tuple(steps))

    retriever = Retriever(fill(tmp_path, [rollout(i) for i in range(40)]))
    assert retriever.recall(query()).success_probability is None
    retriever.prefetch()
    assert retriever.outcomes.model.episodes == 40
    assert retriever.recall(query()).success_probability == pytest.approx(0.75, abs=0.1)
    without = Retriever(BankReader(tmp_path), RetrievalConfig(success_model_rollouts=0))
    without.prefetch()
    assert without.recall(query()).success_probability is None


def test_a_rollout_may_be_longer_than_float32_counts(tmp_path):
    length = 2**24 + 1
    recall = Retriever(fill(tmp_path, [make_rollout("long", 2, length=length)])).recall(query())
    assert set(recall.steps.rollout_length.tolist()) == {length}
