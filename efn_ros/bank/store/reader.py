"""Out of the bank: what it holds at one revision, read when it is asked for and never taken for granted."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np

from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import (
    CATALOGUE,
    PAYLOADS,
    ROWS,
    RolloutRecord,
    check_format,
    check_projection,
    connect,
    read_meta,
    readable,
    record_of,
    row_checksum,
    transaction,
)
from efn_ros.bank.format.errors import BankCorruptionError
from efn_ros.bank.store.rollout import CACHE_BYTES, StepsCache, StoredRollout
from efn_ros.bank.store.snapshot import Snapshot
from efn_ros.features.sketches import Projection


class BankReader:
    """Reads a bank, also while a writer writes it and before there is one (then it is empty).

    projection: refuse a bank that was made with another. skip_corrupt: leave out what is corrupt and name it in
    `corrupt`, where otherwise BankCorruptionError is raised. cache_bytes: of what recall has read. Every method raises
    BankFormatError for what is no bank, and BankProjectionError.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        projection: Projection | None = None,
        skip_corrupt: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._projection = projection
        self._cache = StepsCache(cache_bytes, skip_corrupt=skip_corrupt)
        self._reset()
        self._refresh()

    @property
    def corrupt(self) -> dict[str, str]:
        """What was found corrupt and is skipped: identifier of the rollout -> what is wrong with it."""
        return self._damaged_rows | dict(self._cache.corrupt().values())

    def rollouts(self) -> list[RolloutRecord]:
        """The catalogue, oldest first."""
        return [rollout.record for rollout in self._refresh().rollouts]

    def snapshot(self, *, verified: bool = False) -> Snapshot:
        """All rollouts at the present revision; reads from the catalogue only what no earlier snapshot has read.

        verified: read every payload too and compare it with its checksum. Raises BankCorruptionError then, naming file
        and rollout, for one that is not what was written.
        """
        whole = self._refresh()
        if verified:
            for rollout in whole.rollouts:
                self._cache.read_or_skip(rollout, lambda: rollout.arrays, missing_is_corrupt=True)  # noqa: B023
        if not self._cache.corrupt():
            return replace(whole, skipped=tuple(self._damaged_rows)) if self._damaged_rows else whole
        corrupt = self._cache.corrupt({rollout.path for rollout in whole.rollouts})
        kept = np.array([rollout.path not in corrupt for rollout in whole.rollouts], bool)
        skipped = tuple(r.record.id for r, good in zip(whole.rollouts, kept, strict=True) if not good)
        return replace(whole.only(kept), skipped=(*self._damaged_rows, *skipped))

    def image(self, rollout_id: str, step: int, camera: str) -> np.ndarray:
        """What a camera saw at a decision, uint8 (height, width, 3) RGB, as JPEG has kept it.

        Raises KeyError, naming it, for a rollout, step or camera that the bank has not; BankCorruptionError.
        """
        for rollout in self._refresh().rollouts:
            if rollout.record.id == rollout_id:
                break
        else:
            raise KeyError(f"rollout {rollout_id!r} is not in the bank {self._directory}")
        content = rollout.content()
        rows = np.flatnonzero(codec.decode(content).steps == step)
        if not len(rows):
            raise KeyError(f"step {step} is not in rollout {rollout_id!r}")
        try:
            return codec.decode_image(content, int(rows[0]), camera)
        except KeyError as error:
            raise KeyError(f"camera {camera!r} is not in rollout {rollout_id!r}") from error

    def _reset(self, identity: str = "", projection: str = "") -> None:
        self._identity, self._mark = identity, []
        self._embeddings: dict[int, np.ndarray] = {}
        self._damaged_rows: dict[str, str] = {}
        self._serials, self._snapshot = np.zeros(0, np.int64), Snapshot(projection=projection)

    def _refresh(self) -> Snapshot:
        """The catalogue at its present revision, in one read transaction; reads only what is new in it."""
        path = self._directory / CATALOGUE
        if not path.exists():
            self._reset()
            return self._snapshot
        with readable(path), contextlib.closing(connect(path, read_only=True)) as catalogue:
            catalogue.row_factory = sqlite3.Row
            with transaction(catalogue, "BEGIN"):
                if check_format(catalogue, self._directory):
                    self._reset()
                    return self._snapshot
                if self._projection is not None:
                    check_projection(catalogue, self._directory, self._projection)
                meta = read_meta(catalogue)
                revision, since = int(meta["revision"]), self._snapshot.revision
                # Another bank may lie where one lay, or an older or other copy of it.
                if meta["identity"] != self._identity or revision < since or _mark(catalogue, since) != self._mark:
                    self._reset(meta["identity"], meta["projection"])
                if revision != self._snapshot.revision:
                    self._follow(catalogue, self._snapshot.revision, revision)
        return self._snapshot

    def _follow(self, catalogue: sqlite3.Connection, since: int, revision: int) -> None:
        """Take in what has changed since a revision; all of it or, where an error is raised, nothing."""
        snapshot, serials, damaged_rows = self._snapshot, self._serials, dict(self._damaged_rows)
        gone = catalogue.execute("SELECT serial, id FROM forgotten WHERE revision > ?", (since,)).fetchall()
        forgotten: list[StoredRollout] = []
        if gone:
            kept = ~np.isin(serials, [serial for serial, _ in gone])
            forgotten = [snapshot.rollouts[i] for i in np.flatnonzero(~kept)]
            snapshot, serials = snapshot.only(kept), serials[kept]
            for _, id_ in gone:
                damaged_rows.pop(id_, None)
        rollouts, added, payloads = [], [], self._directory / PAYLOADS
        for row in catalogue.execute(f"{ROWS} WHERE revision > ? ORDER BY serial", (since,)):
            if row_checksum(row) != row["seal"]:
                what = (
                    f"the catalogue's row of rollout {row['id']!r} in {self._directory} is not what was written; make "
                    "the catalogue anew with ./efn bank rebuild"
                )
                if not self._cache.skip_corrupt:
                    raise BankCorruptionError(what)
                damaged_rows[str(row["id"])] = what
                continue
            if (instruction := row["instruction"]) not in self._embeddings:
                self._embeddings[instruction] = np.frombuffer(row["embedding"], "<f4").astype(np.float32)
            record = record_of(row)
            path, embedding = payloads / record.payload, self._embeddings[instruction]
            rollouts.append(StoredRollout(record, instruction, embedding, path, self._cache))
            added.append(row["serial"])
        snapshot, mark = snapshot.extended(rollouts, revision), _mark(catalogue, revision)
        self._snapshot, self._mark, self._damaged_rows = snapshot, mark, damaged_rows
        self._serials = np.concatenate([serials, np.array(added, np.int64)])
        self._cache.drop(*forgotten)


def _mark(catalogue: sqlite3.Connection, revision: int) -> list[tuple]:
    """What a revision did, by which two copies of a bank are told apart that went different ways after it."""
    rows = catalogue.execute(
        "SELECT seal FROM rollout WHERE revision = ?1 UNION ALL SELECT seal FROM forgotten WHERE appended = ?1"
        " UNION ALL SELECT id || forgotten_ns FROM forgotten WHERE revision = ?1",
        (revision,),
    )
    return sorted(map(tuple, rows), key=repr)
