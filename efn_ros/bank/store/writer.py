# SPDX-License-Identifier: MIT
"""Writer of a bank: a rollout is stored completely and durably, or not at all.

An append writes the payload under a temporary name, fsyncs it, renames it, fsyncs the directory, and commits the
catalogue. So whatever the catalogue names is complete, and whatever it does not name is swept when a writer opens.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from efn_ros import files
from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import (
    CATALOGUE,
    PAYLOADS,
    check_format,
    check_projection,
    connect,
    create_tables,
    insert,
    lock,
    store_meta_checksum,
    transaction,
    translate_read_errors,
)
from efn_ros.bank.format.errors import BankFormatError, BankProjectionError, BankWriteError
from efn_ros.bank.format.validation import check_rollout, sizes_of
from efn_ros.bank.store.reader import BankReader
from efn_ros.bank.store.retention import UNLIMITED, Retention
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.bank.store.sweep import sweep
from efn_ros.features.sketches import Projection
from efn_ros.types import Rollout


class BankWriter:
    """The only writer of a bank; may be called from any thread."""

    def __init__(
        self,
        directory: str | Path,
        *,
        projection: Projection,
        image_quality: int = 90,
        retention: Retention = UNLIMITED,
    ) -> None:
        """Open a bank, create it if necessary, and sweep what a killed writer left.

        Args:
            directory: Of the bank.
            projection: Of its keys and sketches.
            image_quality: Of JPEG, 1 to 100.
            retention: Budget that `prune` keeps.

        Raises:
            ValueError: `image_quality` is out of range.
            BankLockedError: Another writer has the bank open.
            BankFormatError: The directory is no bank of this format, or its catalogue is missing.
            BankProjectionError: The bank was made with another projection.
        """
        if not 1 <= image_quality <= 100:
            raise ValueError(f"image_quality is {image_quality}; it must be in 1 to 100")
        self._directory = Path(directory).absolute()
        self._payloads = self._directory / PAYLOADS
        self._projection, self._image_quality, self._retention = projection, image_quality, retention
        self._mutex, self._reader = threading.Lock(), None
        new_directories = [path for path in (self._payloads, *self._payloads.parents) if not path.exists()]
        self._payloads.mkdir(parents=True, exist_ok=True)
        for path in new_directories:
            files.sync(path.parent)
        with contextlib.ExitStack() as resources:
            resources.enter_context(lock(self._directory))
            catalogue = self._directory / CATALOGUE
            if not catalogue.exists() or not catalogue.stat().st_size:
                self._refuse_orphans()
            self._catalogue = resources.enter_context(contextlib.closing(connect(catalogue)))
            self._open()
            sweep(self._catalogue, self._directory)
            self._resources = resources.pop_all()
        self._closed = False

    @property
    def revision(self) -> int:
        """Revision of the bank; 0 for a new one, one more after every change."""
        return int(self._meta("revision"))

    @property
    def rollouts(self) -> int:
        """Number of rollouts in the bank."""
        return self._catalogue.execute("SELECT count(*) FROM rollout").fetchone()[0]

    @property
    def steps(self) -> int:
        """Number of decisions in the bank."""
        return self._catalogue.execute("SELECT coalesce(sum(decisions), 0) FROM rollout").fetchone()[0]

    def __contains__(self, rollout_id: str) -> bool:
        return bool(self._catalogue.execute("SELECT 1 FROM rollout WHERE id = ?", (rollout_id,)).fetchone())

    def append(self, rollout: Rollout) -> int:
        """Store a rollout; on return it survives a crash of process and machine.

        Returns:
            The new revision of the bank.

        Raises:
            ValueError: The rollout is empty, incomplete, not finite, of other sizes than the bank's, or in it already;
                the message names field and value. The bank is as it was.
            BankWriteError: The disk refused. The bank is as it was.
        """
        with self._mutex, _translate_write_errors(self._directory):
            self._check_new(rollout.episode_id)
            if not rollout.steps:
                raise ValueError(f"rollout {rollout.episode_id!r}: steps is (); at least one decision is needed")
            sizes = json.loads(self._meta("sizes")) or sizes_of(rollout)
            check_rollout(rollout, sizes, self._projection)
            return self._store(codec.encode(rollout, self._image_quality, self._projection.identity), sizes)

    def adopt(self, rollout: StoredRollout) -> int:
        """Store a rollout of another bank as it is.

        Returns:
            The new revision of the bank.

        Raises:
            BankCorruptionError: Its payload is not what was written.
            BankProjectionError: It was made with another projection.
            ValueError: It has other sizes than the bank's, or is in it already.
            BankWriteError: The disk refused. The bank is as it was.
        """
        with self._mutex, _translate_write_errors(self._directory):
            id_ = rollout.record.id
            self._check_new(id_)
            content = rollout.content()
            projection = codec.unpack(content)[1]["projection"]
            if projection != self._projection.identity:
                raise BankProjectionError(
                    f"rollout {id_!r} was made with projection {projection}, the bank {self._directory} with "
                    f"{self._projection.identity}; its keys cannot be compared here"
                )
            found = codec.payload_sizes(content)
            sizes = json.loads(self._meta("sizes")) or found
            for name, size in found.items():
                if size != sizes[name]:
                    raise ValueError(f"rollout {id_!r}: {name} has shape {size}; the bank holds {sizes[name]}")
            return self._store(content, sizes)

    def remove(self, *rollout_ids: str, reason: str) -> int:
        """Remove rollouts for good; on return catalogue and disk hold nothing of them, even after a crash.

        What remains is a row in table `forgotten`: identifier, task, outcome, size, time and `reason`. An episode that
        recalls one of them continues with what it has read.

        Returns:
            The new revision of the bank.

        Raises:
            KeyError: The bank does not hold some of the rollouts; the message names them. The bank is as it was.
            BankWriteError: The disk refused. The bank is as it was, unless the message states that only files are left.
        """
        with self._mutex:
            self._check_open()
            payloads = self._payloads_of(rollout_ids)
            try:
                with transaction(self._catalogue):
                    revision, now_ns = self._next_revision(), time.time_ns()
                    for id_ in payloads:
                        self._catalogue.execute(
                            "INSERT INTO forgotten SELECT serial, id, task, outcome, decisions, payload, revision,"
                            " seal, ?, ?, ? FROM rollout WHERE id = ?",
                            (revision, now_ns, reason, id_),
                        )
                        self._catalogue.execute("DELETE FROM rollout WHERE id = ?", (id_,))
                    self._catalogue.execute("DELETE FROM instruction WHERE id NOT IN (SELECT instruction FROM rollout)")
            except sqlite3.Error as error:
                raise BankWriteError(
                    f"nothing is removed from {self._directory}: {error}; free space or repair the disk, then try again"
                ) from error
            try:
                for name in payloads.values():
                    (self._payloads / name).unlink(missing_ok=True)
                files.sync(self._payloads)
                # The log still holds what was deleted; this writes the wiped pages back and empties it.
                (busy, *_) = self._catalogue.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    raise OSError("a reader kept the catalogue open")
            except (OSError, sqlite3.Error) as error:
                raise BankWriteError(
                    f"{len(payloads)} rollouts are removed from {self._directory}, but traces of them could not be "
                    f"deleted: {error}; the next writer that opens the bank deletes them"
                ) from error
            return revision

    def removed(self) -> set[str]:
        """Return the identifiers of removed rollouts."""
        return {id_ for (id_,) in self._catalogue.execute("SELECT id FROM forgotten")}

    def prune(self) -> list[str]:
        """Remove the rollouts that exceed the budget, and return their identifiers; raises as `remove` does."""
        if not self._retention.limited:
            return []
        if self._reader is None:
            self._reader = BankReader(self._directory)
        excess = [r.record.id for r in self._retention.excess(self._reader.snapshot().rollouts)]
        if excess:
            self.remove(*excess, reason=f"over budget, {self._retention.strategy}")
        return excess

    def close(self) -> None:
        """Release the bank; a second call does nothing."""
        with self._mutex:
            self._closed = True
            self._resources.close()

    def __enter__(self) -> BankWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        with translate_read_errors(self._directory / CATALOGUE):
            new = check_format(self._catalogue, self._directory)
            self._catalogue.execute("PRAGMA journal_mode = WAL")
        self._catalogue.execute("PRAGMA synchronous = FULL")
        self._catalogue.execute("PRAGMA foreign_keys = ON")
        self._catalogue.execute("PRAGMA secure_delete = ON")  # removed rows are overwritten
        if not new:
            check_projection(self._catalogue, self._directory, self._projection)
            return
        self._refuse_orphans()
        with transaction(self._catalogue):
            create_tables(self._catalogue, self._projection.identity)
        files.sync(self._directory)
        files.sync(self._directory.parent)

    def _refuse_orphans(self) -> None:
        if any(self._payloads.glob("*.safetensors")):
            raise BankFormatError(
                f"{self._directory} contains payloads but no catalogue; make one with ./efn bank rebuild "
                f"{self._directory}, or name another bank"
            )

    def _meta(self, name: str) -> str:
        return self._catalogue.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the bank {self._directory} is closed; open another BankWriter")

    def _check_new(self, id_: str) -> None:
        self._check_open()
        if not id_:
            raise ValueError("episode_id of the rollout is ''; give it one that is unique in the bank")
        if id_ in self:
            raise ValueError(f"rollout {id_!r}: episode_id is in the bank already; it must be unique")

    def _payloads_of(self, rollout_ids: Sequence[str]) -> dict[str, str]:
        query = "SELECT payload FROM rollout WHERE id = ?"
        rows = {id_: self._catalogue.execute(query, (id_,)).fetchone() for id_ in rollout_ids}
        if missing := [repr(id_) for id_, row in rows.items() if not row]:
            raise KeyError(f"{', '.join(missing)} not in the bank {self._directory}; nothing is removed")
        return {id_: row[0] for id_, row in rows.items()}

    def _store(self, content: bytes, sizes: dict) -> int:
        row = codec.catalogue_row(content)
        try:
            files.create(self._payloads, str(row["payload"]), content)
            return self._commit(row, sizes)
        except (OSError, sqlite3.Error) as error:
            raise BankWriteError(
                f"rollout {row['id']!r} is not stored in {self._directory}: {error}; "
                "free space or repair the disk, then append it again"
            ) from error

    def _commit(self, row: dict, sizes: dict) -> int:
        with transaction(self._catalogue):
            revision = self._next_revision(sizes=json.dumps(sizes))
            insert(self._catalogue, row | {"revision": revision})
        return revision

    def _next_revision(self, **meta: str) -> int:
        """Go to the next revision, and store other entries of `meta`; to be called within a transaction."""
        revision = self.revision + 1
        for name, value in {"revision": str(revision), **meta}.items():
            self._catalogue.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        store_meta_checksum(self._catalogue)
        return revision


@contextlib.contextmanager
def _translate_write_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BankWriteError(
            f"the bank {directory} cannot be written: {error}; check the disk and try again"
        ) from error
