# SPDX-License-Identifier: MIT
"""Reader of a bank: its rollouts at one revision, read on demand and checked."""

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
    SELECT_ROWS,
    RolloutRecord,
    check_format,
    check_projection,
    connect,
    read_meta,
    record_from_row,
    row_checksum,
    transaction,
    translate_read_errors,
)
from efn_ros.bank.format.errors import BankCorruptionError
from efn_ros.bank.store.rollout import CACHE_BYTES, StepsCache, StoredRollout
from efn_ros.bank.store.snapshot import Snapshot
from efn_ros.features.sketches import Projection


class BankReader:
    """Reads a bank, also while a writer changes it, and before it exists (then it is empty).

    Every method raises BankFormatError for a directory that is no bank, and BankProjectionError.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        projection: Projection | None = None,
        skip_corrupt: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Open a bank.

        Args:
            directory: Of the bank.
            projection: Refuse a bank that was made with another projection; None accepts any.
            skip_corrupt: Skip corrupt rollouts and list them in `corrupt`, instead of raising BankCorruptionError.
            cache_bytes: Size of the cache of what retrieval has read.
        """
        self._directory = Path(directory).absolute()
        self._projection = projection
        self._cache = StepsCache(cache_bytes, skip_corrupt=skip_corrupt)
        self._reset()
        self._refresh()

    @property
    def corrupt(self) -> dict[str, str]:
        """Corrupt rollouts that are skipped: identifier to error message."""
        return self._damaged_rows | dict(self._cache.corrupt().values())

    def rollouts(self) -> list[RolloutRecord]:
        """Return the records of the catalogue, oldest first."""
        return [rollout.record for rollout in self._refresh().rollouts]

    def snapshot(self, *, verified: bool = False) -> Snapshot:
        """Return all rollouts at the present revision; only rows that are new in the catalogue are read.

        Args:
            verified: Also read every payload and compare it with its checksum.

        Raises:
            BankCorruptionError: A payload is not what was written; the message names file and rollout.
        """
        whole = self._refresh()
        if verified:
            for rollout in whole.rollouts:
                self._cache.read_or_skip(rollout, lambda: rollout.arrays, missing_is_corrupt=True)  # noqa: B023
        if not self._cache.corrupt():
            return replace(whole, skipped=tuple(self._damaged_rows)) if self._damaged_rows else whole
        corrupt = self._cache.corrupt({rollout.path for rollout in whole.rollouts})
        intact = np.array([rollout.path not in corrupt for rollout in whole.rollouts], bool)
        skipped = tuple(r.record.id for r, good in zip(whole.rollouts, intact, strict=True) if not good)
        return replace(whole.select(intact), skipped=(*self._damaged_rows, *skipped))

    def image(self, rollout_id: str, step: int, camera: str) -> np.ndarray:
        """Return the image of a camera at a decision, uint8 (height, width, 3) RGB, decoded from JPEG.

        Raises:
            KeyError: The bank has no such rollout, step or camera; the message names it.
            BankCorruptionError: The payload is not what was written.
        """
        rollout = next((r for r in self._refresh().rollouts if r.record.id == rollout_id), None)
        if rollout is None:
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
        self._identity, self._fingerprint = identity, []  # of the bank; of the snapshot's revision
        self._embeddings: dict[int, np.ndarray] = {}  # by the instruction's id
        self._damaged_rows: dict[str, str] = {}  # rollout to error message
        self._serials, self._snapshot = np.zeros(0, np.int64), Snapshot(projection=projection)

    def _refresh(self) -> Snapshot:
        """Read what is new in the catalogue, in one read transaction, and return the present snapshot."""
        path = self._directory / CATALOGUE
        if not path.exists():
            self._reset()
            return self._snapshot
        with translate_read_errors(path), contextlib.closing(connect(path, read_only=True)) as catalogue:
            catalogue.row_factory = sqlite3.Row
            with transaction(catalogue, "BEGIN"):
                if check_format(catalogue, self._directory):
                    self._reset()
                    return self._snapshot
                if self._projection is not None:
                    check_projection(catalogue, self._directory, self._projection)
                meta = read_meta(catalogue)
                revision, since = int(meta["revision"]), self._snapshot.revision
                # Another bank, or another copy of this one, may have taken its place.
                same = meta["identity"] == self._identity and revision >= since
                if not same or _fingerprint(catalogue, since) != self._fingerprint:
                    self._reset(meta["identity"], meta["projection"])
                if revision != self._snapshot.revision:
                    self._apply_changes(catalogue, self._snapshot.revision, revision)
        return self._snapshot

    def _apply_changes(self, catalogue: sqlite3.Connection, since: int, revision: int) -> None:
        """Apply the changes since a revision; all of them or, if an error is raised, none."""
        snapshot, serials, damaged_rows = self._snapshot, self._serials, dict(self._damaged_rows)
        rows = catalogue.execute("SELECT serial, id FROM forgotten WHERE revision > ?", (since,)).fetchall()
        removed: list[StoredRollout] = []
        if rows:
            present = ~np.isin(serials, [serial for serial, _ in rows])
            removed = [snapshot.rollouts[i] for i in np.flatnonzero(~present)]
            snapshot, serials = snapshot.select(present), serials[present]
            for _, id_ in rows:
                damaged_rows.pop(id_, None)
        rollouts, added = [], []
        for row in catalogue.execute(f"{SELECT_ROWS} WHERE revision > ? ORDER BY serial", (since,)):
            if row_checksum(row) != row["seal"]:
                message = (
                    f"the catalogue's row of rollout {row['id']!r} in {self._directory} is not what was written; make "
                    "a new catalogue with ./efn bank rebuild"
                )
                if not self._cache.skip_corrupt:
                    raise BankCorruptionError(message)
                damaged_rows[str(row["id"])] = message
                continue
            if (instruction := row["instruction"]) not in self._embeddings:
                self._embeddings[instruction] = np.frombuffer(row["embedding"], "<f4").astype(np.float32)
            record, embedding = record_from_row(row), self._embeddings[instruction]
            path = self._directory / PAYLOADS / record.payload
            rollouts.append(StoredRollout(record, instruction, embedding, path, self._cache))
            added.append(row["serial"])
        snapshot, fingerprint = snapshot.extended(rollouts, revision), _fingerprint(catalogue, revision)
        self._snapshot, self._fingerprint, self._damaged_rows = snapshot, fingerprint, damaged_rows
        self._serials = np.concatenate([serials, np.array(added, np.int64)])
        self._cache.drop(*removed)


def _fingerprint(catalogue: sqlite3.Connection, revision: int) -> list[tuple]:
    """Return what a revision changed; it differs between copies of a bank that have diverged before it."""
    rows = catalogue.execute(
        "SELECT seal FROM rollout WHERE revision = ?1 UNION ALL SELECT seal FROM forgotten WHERE appended = ?1"
        " UNION ALL SELECT id || forgotten_ns FROM forgotten WHERE revision = ?1",
        (revision,),
    )
    return sorted(map(tuple, rows), key=repr)
