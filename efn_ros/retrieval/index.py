# SPDX-License-Identifier: MIT
"""Index of the visual keys of all steps of a bank, searched with faiss."""

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

EXACT_STEPS = 100_000  # up to this number all steps are compared
LISTS, PROBED_LISTS = 1024, 32
SAMPLES_PER_LIST = 64  # steps to which the centre of a list is fitted
REBUILD_FACTOR = 2  # the index is rebuilt when it holds this many times the steps it was built from, or those left
BLOCK = 256  # rollouts that are read before they are added


@dataclass(frozen=True)
class EligibleSteps:
    """The indexed steps of some rollouts of one snapshot, without steps that are added to the index later."""

    index: faiss.Index  # of all steps
    parameters: faiss.SearchParameters  # of the search among these steps
    exhaustive: faiss.SearchParameters | None  # of a slower search, for when that one finds too few; None: it cannot
    rollout: np.ndarray  # int (n,), position of each indexed rollout in the snapshot, -1 if it is not eligible
    first: np.ndarray  # int (n + 1,), first step of each rollout in the index
    count: int  # eligible steps

    def search(self, key: np.ndarray, hits: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `hits` steps with the most similar keys (32), or all if there are fewer.

        Args:
            key: int8 (d,), of the query.
            hits: How many.

        Returns:
            The position in the snapshot of each step's rollout, int64 (M,), and the cosine, float32 (M,); most similar
            first, and of equally similar ones the newest.

        Raises:
            ValueError: The key has another size than the bank's.
        """
        if np.shape(key) != (self.index.d,):
            raise ValueError(f"key of the query has shape {np.shape(key)}; the bank holds {(self.index.d,)}")
        query, count = unit(key)[None], min(hits, self.count)
        (cosines,), (steps,) = self.index.search(query, count, params=self.parameters)
        if steps[-1] < 0 and self.exhaustive is not None:
            (cosines,), (steps,) = self.index.search(query, count, params=self.exhaustive)
        rollouts = self.rollout[np.searchsorted(self.first, steps, side="right") - 1]
        order = np.lexsort((-rollouts, -cosines))
        return rollouts[order], cosines[order]


class StepIndex:
    """Index of the keys (32) of all recallable steps of a bank, in memory; to be used by one thread.

    Up to `exact_steps`, all steps are compared, as float32. Beyond, each is stored as float16 in one of `lists` lists,
    and only the lists whose centres are most similar to the query are searched: PROBED_LISTS of them, more if few steps
    are eligible, all if too few steps are found. The result depends on the query and the contents of the bank, and
    beyond `exact_steps` also on its contents when the index was built.
    """

    def __init__(self, *, exact_steps: int = EXACT_STEPS, lists: int = LISTS) -> None:
        self._exact_steps, self._lists = exact_steps, lists
        self._clear()

    def update(self, snapshot: Snapshot, *, missing_is_corrupt: bool = False) -> None:
        """Add what is new in a snapshot; rebuild the index if it has outgrown its lists, or many rollouts were removed.

        Args:
            snapshot: Of the bank.
            missing_is_corrupt: As of `StepsCache.load`.

        Raises:
            BankCorruptionError: A payload is not what was written, and the reader does not skip such.
            FileNotFoundError: A rollout has been removed since.
            OSError: The disk refused.
        """
        recallable = [rollout for rollout in snapshot.rollouts if rollout.record.recallable]
        new = [rollout for rollout in recallable if rollout.record.payload not in self._places]
        present = _count_steps(recallable)
        total = self._first[-1] + _count_steps(new)
        outgrown = total > max(self._exact_steps, REBUILD_FACTOR * self._built_from)
        if outgrown or total > REBUILD_FACTOR * present:
            self._clear()
            self._train_lists(recallable, present, missing_is_corrupt)
            self._built_from, new = present, recallable
        for start in range(0, len(new), BLOCK):
            self._add(_read(new[start : start + BLOCK], missing_is_corrupt))

    def restrict(self, snapshot: Snapshot, eligible: np.ndarray) -> EligibleSteps | None:
        """Return the steps of the eligible rollouts, bool (R,), of a snapshot that was added; None without any."""
        places = np.array([self._places.get(rollout.record.payload, -1) for rollout in snapshot.rollouts], np.int64)
        chosen = np.flatnonzero(eligible & (places >= 0))
        rollout, first = np.full(len(self._places), -1), np.array(self._first)
        rollout[places[chosen]] = chosen
        steps = np.repeat(rollout >= 0, np.diff(first))
        count = int(np.count_nonzero(steps))
        if not count or self._index is None:
            return None
        selector = faiss.IDSelectorBitmap(np.packbits(steps, bitorder="little"))  # pyright: ignore[reportCallIssue]
        parameters, exhaustive = faiss.SearchParameters(sel=selector), None  # pyright: ignore[reportCallIssue]
        if isinstance(self._index, faiss.IndexIVF):
            probed = min(self._lists, math.ceil(PROBED_LISTS * len(steps) / count))
            parameters, exhaustive = (_list_parameters(selector, lists) for lists in (probed, self._lists))
        return EligibleSteps(self._index, parameters, exhaustive, rollout, first, count)

    def _clear(self) -> None:
        self._index: faiss.Index | None = None
        self._built_from, self._first = 0, [0]
        self._places: dict[str, int] = {}

    def _train_lists(self, rollouts: Sequence[StoredRollout], steps: int, missing_is_corrupt: bool) -> None:
        """Fit the centres of the lists, if there are too many steps to compare them all."""
        if steps <= self._exact_steps:
            return
        every = max(1, steps // (SAMPLES_PER_LIST * self._lists))
        samples = [keys for _, keys in _read(rollouts[::every], missing_is_corrupt)]
        if sum(map(len, samples)) >= self._lists:  # fewer are read only if nearly everything is corrupt
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


def _list_parameters(selector: faiss.IDSelector, lists: int) -> faiss.SearchParameters:
    return faiss.SearchParametersIVF(sel=selector, nprobe=lists)  # pyright: ignore[reportCallIssue]


def _count_steps(rollouts: Sequence[StoredRollout]) -> int:
    return sum(rollout.record.recallable for rollout in rollouts)


def _read(rollouts: Sequence[StoredRollout], missing_is_corrupt: bool) -> list[tuple[StoredRollout, np.ndarray]]:
    """Return rollouts and the unit keys of their recallable steps, float32 (N, d); corrupt ones are skipped."""

    def one(rollout: StoredRollout) -> np.ndarray | None:
        return rollout.cache.read_or_skip(rollout, lambda: _keys(rollout), missing_is_corrupt=missing_is_corrupt)

    with ThreadPoolExecutor(READERS) as pool:
        read = zip(rollouts, pool.map(one, rollouts), strict=True)
        return [(rollout, keys) for rollout, keys in read if keys is not None]


def _keys(rollout: StoredRollout) -> np.ndarray:
    try:
        keys, recallable = PayloadFile(rollout.path).keys()
    except ValueError as error:
        raise rollout.corruption_error(error) from error
    return unit(keys[recallable])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let faiss use one thread; the other cores are for the policy."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
