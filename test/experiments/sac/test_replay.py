# SPDX-License-Identifier: MIT
"""The replay buffer: it overwrites the oldest rows, samples uniformly, refuses invalid rows and resumes."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.experiments.sac.replay import Replay, SymmetricReplay, Transition, leaves, tree_map


@dataclass(frozen=True)
class Step:
    latent: object
    proprio: object
    base: object


def rows(numbers) -> Transition:
    """Numbered decisions, with a dataclass and a dict in the observation."""
    n = np.asarray(numbers, np.float32)
    wide = lambda *shape: np.broadcast_to(n.reshape(-1, *(1,) * len(shape)), (len(n), *shape)).copy()  # noqa: E731
    observation = lambda: (Step(wide(2, 3), wide(4), wide(2, 2)), {"mask": wide(5) > 0})  # noqa: E731
    reference = np.stack([n, n + 1], axis=1).astype(np.int64)
    return Transition(observation(), wide(2, 2), n, observation(), n > 1, reference)


def numbers(batch: Transition) -> list[int]:
    return batch.reward.astype(int).tolist()


def filled(count: int, capacity: int = 100, seed: int = 0) -> Replay:
    made = Replay(rows([0]), capacity, seed)
    made.insert(rows(range(count)))
    return made


def assert_same(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
        assert array.dtype == other[name].dtype, name


@settings(deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 12), max_size=6))
def test_it_holds_what_a_deque_of_that_length_holds(capacity, sizes):
    replay, model, count = Replay(rows([0]), capacity), deque(maxlen=capacity), 0
    for size in sizes:
        replay.insert(rows(range(count, count + size)))
        model.extend(range(count, count + size))
        count += size
        assert len(replay) == len(model)
    if model:
        assert set(numbers(replay.sample(40 * capacity))) == set(model)


def test_rows_keep_their_structure_and_types():
    batch = filled(50).sample(20)
    assert_same(batch, rows(numbers(batch)))
    assert isinstance(batch.observation[0], Step) and batch.return_to_go is None


def test_it_stores_what_appendix_b_lists_and_the_reference():
    names = set(leaves(filled(3).sample(1)))
    assert {"observation.0.latent", "observation.1.mask", "action", "reward", "done", "reference"} <= names
    assert {"next_observation.0.base", "next_observation.1.mask"} <= names


def test_it_takes_tensors():
    replay = Replay(rows([0]), 4)
    replay.insert(tree_map(lambda _, x: torch.from_numpy(x), rows([3, 4])))
    assert set(numbers(replay.sample(20))) == {3, 4}


def test_rows_are_sampled_uniformly():
    counts = np.bincount(numbers(filled(20).sample(20_000)), minlength=20)
    assert counts.sum() == 20_000 and np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_a_sample_is_a_copy():
    replay = filled(1)
    replay.sample(1).reward[:] = 9
    assert numbers(replay.sample(1)) == [0]


# Symmetric


@settings(deadline=None)
@given(st.integers(1, 33))
def test_half_of_a_batch_are_successes_once_there_are_some(count):
    online, successes = filled(10), Replay(rows([0]), 100)
    both = SymmetricReplay(online, successes)
    assert max(numbers(both.sample(count))) < 10
    successes.insert(rows(range(1000, 1010)))
    batch = both.sample(count)
    drawn = np.array(numbers(batch))
    assert len(drawn) == count and (drawn >= 1000).sum() == count // 2 == (drawn[count - count // 2 :] >= 1000).sum()
    assert_same(batch, rows(drawn))


def test_without_online_rows_all_are_successes():
    both = SymmetricReplay(Replay(rows([0]), 9), filled(5))
    assert len(numbers(both.sample(7))) == 7
    with pytest.raises(ValueError, match="the replay is empty"):
        SymmetricReplay(Replay(rows([0]), 9), Replay(rows([0]), 9)).sample(1)


# What is refused


INVALID = {
    "a NaN": (lambda r: replace(r, reward=np.float32([1, np.nan])), "reward holds NaN or Inf"),
    "an Inf": (lambda r: replace(r, action=np.full((2, 2, 2), np.inf, np.float32)), "action holds NaN or Inf"),
    "too large for float32": (lambda r: replace(r, reward=np.array([1, 1e300])), "reward holds NaN or Inf as float32"),
    "a shape": (lambda r: replace(r, reward=r.reward[:, None]), r"reward has shape \(2, 1\); \(2,\) is stored"),
    "a number": (lambda r: replace(r, reward=np.float32(1)), r"reward has shape \(\); \(2,\) is stored"),
    "a row less": (lambda r: replace(r, done=r.done[:1]), r"done has shape \(1,\); \(2,\) is stored"),
    "a kind": (lambda r: replace(r, done=r.reward), "done is float32, which does not go into bool"),
    "one missing": (lambda r: replace(r, reference=None), "rows hold reference or the example does, not both"),
    "one too many": (lambda r: replace(r, return_to_go=r.reward), "rows hold return_to_go or the example does"),
    "deep inside": (
        lambda r: replace(r, observation=(replace(r.observation[0], proprio=np.zeros((2, 5))), r.observation[1])),
        r"observation.0.proprio has shape \(2, 5\); \(2, 4\) is stored",
    ),
}


@pytest.mark.parametrize("change, words", INVALID.values(), ids=INVALID)
def test_invalid_rows_are_refused_by_name_and_change_nothing(change, words):
    replay, untouched = filled(3, capacity=4), filled(3, capacity=4)
    with pytest.raises(ValueError, match=words):
        replay.insert(change(rows([7, 8])))
    assert len(replay) == 3
    assert_same(replay.sample(50), untouched.sample(50))


def test_a_replay_without_capacity_or_rows_is_refused():
    with pytest.raises(ValueError, match="capacity is 0; it must be at least 1"):
        Replay(rows([0]), 0)
    with pytest.raises(ValueError, match="reward of the example is a single number"):
        Replay({"reward": np.float32(1)}, 4)
    with pytest.raises(ValueError, match="the replay is empty: insert rows first"):
        Replay(rows([0]), 4).sample(1)


# After a restart


@pytest.mark.parametrize("count", [0, 5, 8, 13])
def test_a_resumed_replay_samples_as_an_uninterrupted_one(tmp_path, count):
    replay = filled(count, capacity=8)
    if count:
        replay.sample(3)
    replay.save(tmp_path / "replay.safetensors")
    back = filled(3, capacity=8, seed=1)
    back.load(tmp_path / "replay.safetensors")
    assert len(back) == len(replay)
    for buffer in (replay, back):
        buffer.insert(rows([90, 91]))
    for _ in range(3):
        assert_same(replay.sample(50), back.sample(50))


def test_a_failed_save_leaves_the_previous_file(tmp_path, monkeypatch):
    path, replay = tmp_path / "replay.safetensors", filled(5)
    replay.save(path)
    before = path.read_bytes()
    replay.insert(rows([7]))

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("efn_ros.files.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        replay.save(path)
    assert path.read_bytes() == before


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "replay.safetensors"
    with pytest.raises(FileNotFoundError):
        filled(1).load(path)
    path.write_bytes(b"not a replay")
    with pytest.raises(ValueError, match="replay.safetensors is damaged or of another kind"):
        filled(1).load(path)
    filled(5, capacity=7).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged or of another kind"):
        filled(1, capacity=7).load(path)


def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "replay.safetensors"
    filled(5, capacity=7).save(path)
    with pytest.raises(ValueError, match="saved with capacity 7, not 8"):
        filled(1, capacity=8).load(path)
    other = Replay(replace(rows([0]), reward=np.zeros((1, 2), np.float32)), 7)
    with pytest.raises(ValueError, match=r"does not fit: reward is \(\(\), dtype\('float32'\)\), not \(\(2,\), "):
        other.load(path)
    assert len(other) == 0
