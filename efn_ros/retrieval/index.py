"""Everything that is remembered, by what was seen: the keys of a whole bank, searched with faiss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np

from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.store.rollout import READERS, StoredRollout
from efn_ros.bank.store.snapshot import Snapshot
from efn_ros.features.keys import unit

EXACT = 100_000  # steps, of which all are compared
LISTS, PROBED = 1024, 32
LEARNT_FROM = 64  # steps a list, which tell where its centre is
GROWN = 2  # so many times what it was made of, or what is not forgotten, and it is made anew
BLOCK = 256  # rollouts that are read before they are added


@dataclass(frozen=True)
class Eligible:
    """The steps of some rollouts of one snapshot, `count` of them; what the index takes in later is not among them.

    ways: to search the index; a later one where those before find too little. rollout, first: of each rollout in the
    index its place in the snapshot, -1 for none, and its first step in the index.
    """

    index: faiss.Index
    ways: tuple[faiss.SearchParameters, ...]
    rollout: np.ndarray
    first: np.ndarray
    count: int

    def search(self, key: np.ndarray, hits: int) -> tuple[np.ndarray, np.ndarray]:
        """The `hits` steps with the likest keys (32), or all if there are fewer: place in the snapshot of the rollout
        that each lies in, int64 (M,), and cosine, float32 (M,); likest first, and of equally like ones the newest.

        key: int8 (d,), as of `Quantised`. Raises ValueError for one of another size than the bank's.
        """
        if np.shape(key) != (self.index.d,):
            raise ValueError(f"key of the query has shape {np.shape(key)}; the bank holds {(self.index.d,)}")
        for way in self.ways:
            (cosines,), (steps,) = self.index.search(unit(key)[None], min(hits, self.count), params=way)
            if steps[-1] >= 0:
                break
        rollouts = self.rollout[np.searchsorted(self.first, steps, side="right") - 1]
        order = np.lexsort((-rollouts, -cosines))
        return rollouts[order], cosines[order]


class StepIndex:
    """The keys (32) of all recallable steps of a bank, in memory; made out of its payloads, and never stored.

    Up to `exact` steps all are compared, as float32. Of more, each is kept as float16 in one of so many `lists`, and
    those in the lists whose centres are likest to the query are compared: in PROBED of them, in more where few of the
    steps are eligible, in all where too few are found. New rollouts are added; forgotten ones are left out. Where half
    of it is forgotten, or it holds twice what it was made of, it is made anew, so that the lists fit what they hold.
    What is found depends on the query and on what the bank holds; beyond `exact` also on what it held when the index
    was made. For one thread.
    """

    def __init__(self, *, exact: int = EXACT, lists: int = LISTS) -> None:
        self._exact, self._lists = exact, lists
        self._clear()

    def follow(self, snapshot: Snapshot, *, lost: bool = False) -> None:
        """Take in what is new in a snapshot. lost: as of `StepsCache.load`. Raises BankCorruptionError for a rollout
        that is corrupt, unless the reader skips those, FileNotFoundError for one that was forgotten, and OSError."""
        recallable = [rollout for rollout in snapshot.rollouts if rollout.record.recallable]
        new = [rollout for rollout in recallable if rollout.record.payload not in self._places]
        remembered = _steps(recallable)
        held = self._first[-1] + _steps(new)
        if held > max(self._exact, GROWN * self._made_of) or held > GROWN * remembered:
            self._clear()
            self._make_lists(recallable, remembered, lost)
            self._made_of, new = remembered, recallable
        for start in range(0, len(new), BLOCK):
            self._add(_read(new[start : start + BLOCK], lost))

    def among(self, snapshot: Snapshot, eligible: np.ndarray) -> Eligible | None:
        """What to search, of the rollouts of a snapshot that was followed those that `eligible`, bool (R,), names; None
        if the index holds no step of them."""
        places = np.array([self._places.get(rollout.record.payload, -1) for rollout in snapshot.rollouts], np.int64)
        chosen = np.flatnonzero(eligible & (places >= 0))
        rollout, first = np.full(len(self._places), -1), np.array(self._first)
        rollout[places[chosen]] = chosen
        steps = np.repeat(rollout >= 0, np.diff(first))
        count = int(np.count_nonzero(steps))
        if not count:
            return None
        selector = faiss.IDSelectorBitmap(np.packbits(steps, bitorder="little"))
        if isinstance(self._index, faiss.IndexIVF):
            probed = min(self._lists, math.ceil(PROBED * len(steps) / count))
            ways = tuple(faiss.SearchParametersIVF(sel=selector, nprobe=lists) for lists in (probed, self._lists))
        else:
            ways = (faiss.SearchParameters(sel=selector),)
        return Eligible(self._index, ways, rollout, first, count)

    def _clear(self) -> None:
        self._index: faiss.Index | None = None
        self._made_of, self._places, self._first = 0, {}, [0]

    def _make_lists(self, rollouts: Sequence[StoredRollout], steps: int, lost: bool) -> None:
        """Where there are too many steps to compare them all."""
        if steps <= self._exact:
            return
        every = max(1, steps // (LEARNT_FROM * self._lists))
        sample = [keys for _, keys in _read(rollouts[::every], lost)]
        if sum(map(len, sample)) >= self._lists:  # less can be read only if nearly everything is corrupt
            keys = np.concatenate(sample)
            self._index = faiss.index_factory(keys.shape[1], f"IVF{self._lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
            with _one_thread():
                self._index.train(keys)

    def _add(self, read: Sequence[tuple[StoredRollout, np.ndarray]]) -> None:
        if not read:
            return
        keys = np.concatenate([keys for _, keys in read])
        if self._index is None:
            self._index = faiss.IndexFlatIP(keys.shape[1])
        with _one_thread():
            self._index.add(keys)
        for rollout, keys in read:
            self._places[rollout.record.payload] = len(self._places)
            self._first.append(self._first[-1] + len(keys))


def _steps(rollouts: Sequence[StoredRollout]) -> int:
    return sum(rollout.record.recallable for rollout in rollouts)


def _read(rollouts: Sequence[StoredRollout], lost: bool) -> list[tuple[StoredRollout, np.ndarray]]:
    """Unit keys of the recallable steps of each, float32 (N, d); without the corrupt ones that are skipped."""

    def one(rollout: StoredRollout) -> np.ndarray | None:
        return rollout.cache.tolerate(rollout, lambda: _keys(rollout), lost=lost)

    with ThreadPoolExecutor(READERS) as pool:
        read = zip(rollouts, pool.map(one, rollouts), strict=True)
        return [(rollout, keys) for rollout, keys in read if keys is not None]


def _keys(rollout: StoredRollout) -> np.ndarray:
    try:
        keys, recallable = PayloadFile(rollout.path).keys()
    except ValueError as error:
        raise rollout.corrupt(error) from error
    return unit(keys[recallable])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The other cores are the policy's; a single query takes one thread in any case."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
