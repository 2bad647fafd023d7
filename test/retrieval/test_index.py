# SPDX-License-Identifier: MIT
"""The index of all keys, against every cosine computed one by one."""

import dataclasses

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankCorruptionError, BankReader, BankWriter, Snapshot
from efn_ros.features.sketches import quantise
from efn_ros.retrieval.index import StepIndex
from efn_ros.types import Mode

BLANK = 2  # step of the last rollout


def fill(directory, rollouts, **options):
    with BankWriter(directory, projection=PROJECTION) as writer:
        for rollout in rollouts:
            writer.append(rollout)
    return BankReader(directory, **options).snapshot()


def with_a_blank_step(rollout):
    steps = list(rollout.steps)
    still = dataclasses.replace(steps[BLANK].policy_step, proprio=steps[BLANK + 1].policy_step.proprio)
    snapshots = dataclasses.replace(steps[BLANK].correction, mode=Mode.HOLD)
    steps[BLANK] = dataclasses.replace(steps[BLANK], policy_step=still, correction=snapshots)
    return dataclasses.replace(rollout, steps=tuple(steps))


@pytest.fixture(scope="module")
def rollouts():
    made = [make_rollout(f"r{i}", 2 + 3 * (i % 4)) for i in range(12)]
    return [*made, with_a_blank_step(make_rollout("blank", 5))]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory, rollouts):
    return fill(tmp_path_factory.mktemp("bank"), rollouts)


def only(snapshot, chosen):
    """The snapshot with some of its rollouts."""
    return Snapshot.of([snapshot.rollouts[i] for i in chosen], 1, snapshot.projection)


def query(seed):
    return quantise(np.random.default_rng([3, seed]).standard_normal(PROJECTION.output_size)).q


def every_cosine(rollouts, key):
    """(cosine, position of the rollout) of every step that is not blank, most similar first."""
    found = []
    for place, rollout in enumerate(rollouts):
        for step in rollout.steps:
            if step.correction.mode is not Mode.HOLD:
                a, b = step.policy_step.key.dequantise().astype(float), key.astype(float)
                found.append((a @ b / np.linalg.norm(a) / np.linalg.norm(b), place))
    return sorted(found, reverse=True)


def found_by(index, snapshot, key, hits=1000, eligible=True):
    index.update(snapshot)
    among = index.restrict(snapshot, np.broadcast_to(eligible, len(snapshot.rollouts)))
    return among.search(key, hits) if among else (np.zeros(0, int), np.zeros(0))


def assert_most_similar(found, expected, within=1e-5):
    places, cosines = found
    np.testing.assert_allclose(cosines, [cosine for cosine, _ in expected[: len(cosines)]], atol=within)
    for place, cosine in zip(places, cosines, strict=True):
        assert min(abs(cosine - true) for true, of in expected if of == place) < within


subsets = st.sets(st.integers(0, 12)).map(sorted)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), hits=st.integers(1, 200), eligible=subsets)
def test_the_search_finds_the_most_similar_eligible_steps(snapshot, rollouts, seed, hits, eligible):
    key, named = query(seed), np.isin(np.arange(len(rollouts)), eligible)
    expected = [(cosine, place) for cosine, place in every_cosine(rollouts, key) if named[place]]
    found = found_by(StepIndex(), snapshot, key, hits, named)
    assert len(found[0]) == min(hits, len(expected))
    assert_most_similar(found, expected)


@settings(max_examples=50)
@given(snapshots=st.lists(subsets, min_size=1, max_size=6), exact=st.sampled_from([0, 10, 40, 1000]))
def test_the_search_does_not_depend_on_earlier_additions_and_removals(snapshot, rollouts, snapshots, exact):
    index, key = StepIndex(exact_steps=exact, lists=2), query(0)
    for chosen in snapshots:
        found = found_by(index, only(snapshot, chosen), key)
        expected = every_cosine([rollouts[i] for i in chosen], key)
        assert len(found[0]) == len(expected)
        assert_most_similar(found, expected, within=1e-3)  # as float16


def test_a_stored_key_finds_its_step_first_and_blank_steps_are_not_found(snapshot, rollouts):
    index = StepIndex()
    for place, rollout in enumerate(rollouts):
        for step in rollout.steps:
            places, cosines = found_by(index, snapshot, step.policy_step.key.q, 1)
            found = (places[0], cosines[0] > 0.9999)
            assert (found == (place, True)) == (step.correction.mode is not Mode.HOLD)


def test_of_equally_similar_steps_the_newest_come_first(tmp_path):
    snapshot = fill(tmp_path, [make_rollout(name, 2, seed=5) for name in "abc"])
    places, cosines = found_by(StepIndex(), snapshot, query(0))
    assert places.tolist() == [2, 1, 0, 2, 1, 0] and len(set(cosines.tolist())) == 2


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    made = [make_rollout(f"r{i}", 30, image=1, cameras=("left",)) for i in range(60)]
    return made, fill(tmp_path_factory.mktemp("many"), made)


@pytest.mark.parametrize("eligible", [60, 3])
def test_the_approximate_search_finds_nearly_all_of_the_most_similar_steps(many, eligible):
    (made, snapshot), index, shares = many, StepIndex(exact_steps=1000, lists=256), []
    for seed in range(50):
        key = query(seed)
        tenth = every_cosine(made[:eligible], key)[9][0]
        _, cosines = found_by(index, snapshot, key, 10, np.arange(60) < eligible)
        shares.append(np.mean(cosines > tenth - 1e-3))
    assert 0.9 < np.mean(shares)


def seeing(rollout, where, rng):
    """A rollout whose keys are all close to one key."""
    keys = [quantise(where + 0.1 * rng.standard_normal(len(where))) for _ in rollout.steps]
    steps = [
        dataclasses.replace(s, policy_step=dataclasses.replace(s.policy_step, key=key))
        for s, key in zip(rollout.steps, keys, strict=True)
    ]
    return dataclasses.replace(rollout, steps=tuple(steps))


def test_few_and_distant_eligible_steps_are_found(tmp_path):
    rng = np.random.default_rng(0)
    here = rng.standard_normal(PROJECTION.output_size)
    made = [make_rollout(f"r{i}", 50, image=1, cameras=("left",)) for i in range(20)]
    made = [seeing(rollout, here if i < 10 else -here, rng) for i, rollout in enumerate(made)]
    snapshot, index, key = fill(tmp_path, made), StepIndex(exact_steps=500, lists=128), quantise(here).q
    for eligible in (range(10, 20), [13]):
        expected = [(cosine, place) for cosine, place in every_cosine(made, key) if place in eligible]
        found = found_by(index, snapshot, key, 50, np.isin(np.arange(20), eligible))
        assert len(found[0]) == 50 and (found[1] < -0.9).all()
        assert_most_similar(found, expected, within=1e-3)


def test_steps_added_later_are_not_found_in_an_older_snapshot(snapshot):
    index, few = StepIndex(), only(snapshot, [0, 3])
    index.update(few)
    among, key = index.restrict(few, np.ones(2, bool)), query(1)
    before = among.search(key, 1000)
    for later in (snapshot, only(snapshot, [5])):  # the last one lacks nearly all rollouts, so the index is rebuilt
        index.update(later)
        np.testing.assert_array_equal(among.search(key, 1000), before)


def test_the_index_is_rebuilt_once_more_than_half_of_it_is_removed(snapshot):
    index, sizes = StepIndex(), []
    for chosen in (range(12), range(9), [3]):
        snapshots = only(snapshot, chosen)
        index.update(snapshots)
        among = index.restrict(snapshots, np.ones(len(snapshots.rollouts), bool))
        sizes.append((among.count, among.index.ntotal))
    assert sizes == [(78, 78), (54, 78), (11, 11)]


def test_without_eligible_steps_the_restriction_is_none(tmp_path, snapshot):
    index, empty = StepIndex(), BankReader(tmp_path).snapshot()
    index.update(empty)
    assert index.restrict(empty, np.zeros(0, bool)) is None
    index.update(snapshot)
    assert index.restrict(snapshot, np.zeros(13, bool)) is None


def test_a_key_of_another_size_is_refused(snapshot):
    with pytest.raises(ValueError, match=r"key of the query has shape \(7,\); the bank holds \(16,\)"):
        found_by(StepIndex(), snapshot, np.zeros(7, np.int8))


def test_building_the_index_restores_the_threads_of_faiss(snapshot):
    before = faiss.omp_get_max_threads()
    StepIndex(exact_steps=1, lists=2).update(snapshot)
    assert faiss.omp_get_max_threads() == before


# Corruption


def damage(snapshot, *names):
    """Damage the keys of some rollouts."""
    for rollout in snapshot.rollouts:
        if rollout.record.id in names:
            content = rollout.content()
            key = rollout.steps.key.tobytes()
            rollout.path.write_bytes(content.replace(key, bytes(len(key))))


def test_a_corrupt_rollout_is_reported_or_skipped(tmp_path):
    made, key = [make_rollout(name, 4) for name in "abc"], query(0)
    damage(fill(tmp_path, made), "b")
    with pytest.raises(BankCorruptionError, match="rollout 'b'.*tensor 'key.q' is not what was written"):
        StepIndex().update(BankReader(tmp_path).snapshot())
    reader = BankReader(tmp_path, skip_corrupt=True)
    found = found_by(StepIndex(), reader.snapshot(), key)
    assert set(found[0].tolist()) == {0, 2} and reader.corrupt.keys() == {"b"}
    assert_most_similar(found, every_cosine([made[0], dataclasses.replace(made[1], steps=()), made[2]], key))


def test_a_rollout_whose_file_is_restored_is_found_again(tmp_path):
    made, key, index = [make_rollout(name, 4) for name in "abc"], query(0), StepIndex()
    whole = fill(tmp_path, made)
    content = whole.rollouts[1].content()
    damage(whole, "b")
    reader = BankReader(tmp_path, skip_corrupt=True)
    assert set(found_by(index, reader.snapshot(), key)[0].tolist()) == {0, 2}
    whole.rollouts[1].path.write_bytes(content)
    assert_most_similar(found_by(index, reader.snapshot(), key), every_cosine(made, key))


def test_if_hardly_any_rollout_can_be_read_all_readable_steps_are_compared(tmp_path):
    made, key = [make_rollout(name, 4) for name in "abc"], query(0)
    damage(fill(tmp_path, made), "a", "b")
    snapshot = BankReader(tmp_path, skip_corrupt=True).snapshot()
    places, cosines = found_by(StepIndex(exact_steps=1, lists=6), snapshot, key)
    assert places.tolist() == [2] * 4
    np.testing.assert_allclose(cosines, [cosine for cosine, _ in every_cosine(made[2:], key)], atol=1e-5)


def test_a_missing_payload_counts_as_removed_or_corrupt_as_the_caller_chooses(tmp_path):
    snapshot, index = fill(tmp_path, [make_rollout(name) for name in "ab"]), StepIndex()
    snapshot.rollouts[1].path.unlink()
    with pytest.raises(FileNotFoundError):
        index.update(snapshot)
    with pytest.raises(BankCorruptionError, match="rollout 'b': the file is missing"):
        index.update(snapshot, missing_is_corrupt=True)


def test_a_failed_update_is_completed_by_the_next_one(tmp_path, snapshot, rollouts):
    """Also the lists, which are fitted first."""
    made, key, index = [make_rollout(name, 4) for name in "abc"], query(0), StepIndex(exact_steps=5, lists=2)
    whole = fill(tmp_path, made)
    content = whole.rollouts[2].content()
    damage(whole, "c")
    with pytest.raises(BankCorruptionError):
        index.update(whole)
    whole.rollouts[2].path.write_bytes(content)
    found = found_by(index, whole, key)
    assert len(found[0]) == 12
    assert_most_similar(found, every_cosine(made, key), within=1e-3)
