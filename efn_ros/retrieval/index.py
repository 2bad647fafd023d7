"""All steps of a bank by what was seen: their keys, searched with faiss."""

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

EXACT_STEPS = 100_000  # up to so many steps all are compared
LISTS, PROBED_LISTS = 1024, 32
SAMPLES_PER_LIST = 64  # steps that the centre of a list is learned from
REBUILD_FACTOR = 2  # the index is rebuilt when it holds so many times what it was built of, or what is not forgotten
BLOCK = 256  # rollouts that are read before they are added


@dataclass(frozen=True)
class EligibleSteps:
    """The steps of some rollouts of one snapshot; what the index takes in later is not among them."""

    index: faiss.Index
    searches: tuple[faiss.SearchParameters, ...]  # a later one is tried where those before find too little
    rollout: np.ndarray  # int (n,), of each rollout in the index its place in the snapshot, -1 for none
    first: np.ndarray  # int (n + 1,), its first step in the index
    count: int  # of the steps

    def search(self, key: np.ndarray, hits: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `hits` steps with the most similar keys (32), or all if there are fewer.

        Args:
            key: int8 (d,), of the query.
            hits: How many.

        Returns:
            The place in the snapshot of each step's rollout, int64 (M,), and the cosine, float32 (M,); most similar
            first, and of equally similar ones the newest.

        Raises:
            ValueError: The key is of another size than the bank's.
        """
        if np.shape(key) != (self.index.d,):
            raise ValueError(f"key of the query has shape {np.shape(key)}; the bank holds {(self.index.d,)}")
        query, wanted = unit(key)[None], min(hits, self.count)
        for search in self.searches:
            (cosines,), (steps,) = self.index.search(query, wanted, params=search)
            if steps[-1] >= 0:
                break
        rollouts = self.rollout[np.searchsorted(self.first, steps, side="right") - 1]
        order = np.lexsort((-rollouts, -cosines))
        return rollouts[order], cosines[order]


class StepIndex:
    """The keys (32) of all recallable steps of a bank, in memory; built from its payloads and never stored.

    Up to `exact_steps` all steps are compared, as float32. Of more, each is kept as float16 in one of so many `lists`,
    and the steps of the lists whose centres are most similar to the query are compared: of PROBED_LISTS lists, of more
    where few steps are eligible, of all where too few are found. What is found depends on the query and on what the
    bank holds; beyond `exact_steps` also on what it held when the index was built. For one thread.
    """

    def __init__(self, *, exact_steps: int = EXACT_STEPS, lists: int = LISTS) -> None:
        self._exact_steps, self._lists = exact_steps, lists
        self._clear()

    def update(self, snapshot: Snapshot, *, missing_is_corrupt: bool = False) -> None:
        """Take in what is new in a snapshot; rebuild where the lists no longer fit what is held.

        Args:
            snapshot: Of the bank.
            missing_is_corrupt: As of `StepsCache.load`.

        Raises:
            BankCorruptionError: A payload is not what was written, and the reader does not skip such.
            FileNotFoundError: A rollout has been forgotten since.
            OSError: The disk does not answer.
        """
        recallable = [rollout for rollout in snapshot.rollouts if rollout.record.recallable]
        new = [rollout for rollout in recallable if rollout.record.payload not in self._places]
        remembered = _count_steps(recallable)
        held = self._first[-1] + _count_steps(new)
        outgrown = held > max(self._exact_steps, REBUILD_FACTOR * self._built_of)
        if outgrown or held > REBUILD_FACTOR * remembered:
            self._clear()
            self._train_lists(recallable, remembered, missing_is_corrupt)
            self._built_of, new = remembered, recallable
        for start in range(0, len(new), BLOCK):
            self._add(_read(new[start : start + BLOCK], missing_is_corrupt))

    def restrict(self, snapshot: Snapshot, eligible: np.ndarray) -> EligibleSteps | None:
        """Return what to search of the eligible rollouts, bool (R,), of a snapshot that was taken in.

        None if the index holds no step of them.
        """
        places = np.array([self._places.get(rollout.record.payload, -1) for rollout in snapshot.rollouts], np.int64)
        chosen = np.flatnonzero(eligible & (places >= 0))
        rollout, first = np.full(len(self._places), -1), np.array(self._first)
        rollout[places[chosen]] = chosen
        steps = np.repeat(rollout >= 0, np.diff(first))
        count = int(np.count_nonzero(steps))
        if not count or self._index is None:
            return None
        selector = faiss.IDSelectorBitmap(np.packbits(steps, bitorder="little"))
        if isinstance(self._index, faiss.IndexIVF):
            probed = min(self._lists, math.ceil(PROBED_LISTS * len(steps) / count))
            searches = tuple(faiss.SearchParametersIVF(sel=selector, nprobe=lists) for lists in (probed, self._lists))
        else:
            searches = (faiss.SearchParameters(sel=selector),)
        return EligibleSteps(self._index, searches, rollout, first, count)

    def _clear(self) -> None:
        self._index: faiss.Index | None = None
        self._built_of, self._first = 0, [0]
        self._places: dict[str, int] = {}

    def _train_lists(self, rollouts: Sequence[StoredRollout], steps: int, missing_is_corrupt: bool) -> None:
        """Where there are too many steps to compare them all."""
        if steps <= self._exact_steps:
            return
        every = max(1, steps // (SAMPLES_PER_LIST * self._lists))
        samples = [keys for _, keys in _read(rollouts[::every], missing_is_corrupt)]
        if sum(map(len, samples)) >= self._lists:  # less can be read only if nearly everything is corrupt
            keys = np.concatenate(samples)
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


def _count_steps(rollouts: Sequence[StoredRollout]) -> int:
    return sum(rollout.record.recallable for rollout in rollouts)


def _read(rollouts: Sequence[StoredRollout], missing_is_corrupt: bool) -> list[tuple[StoredRollout, np.ndarray]]:
    """Unit keys of the recallable steps of each rollout, float32 (N, d); without the corrupt ones that are skipped."""

    def one(rollout: StoredRollout) -> np.ndarray | None:
        return rollout.cache.read_or_skip(rollout, lambda: _keys(rollout), missing_is_corrupt=missing_is_corrupt)

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
