"""Into the bank: a rollout is there whole and for good, or not at all.

It is appended in this order: payload under a temporary name, fsync, rename, fsync of the directory, commit of the
catalogue. So whatever the catalogue names is whole, and whatever it does not name is swept when a writer opens.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from efn_ros import files
from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import (
    CATALOGUE,
    ORPHANED,
    PAYLOADS,
    check_format,
    check_projection,
    connect,
    insert,
    lock,
    make,
    readable,
    store_meta_checksum,
    transaction,
)
from efn_ros.bank.format.codec import checksum
from efn_ros.bank.format.errors import BankFormatError, BankProjectionError, BankWriteError
from efn_ros.bank.format.validation import check, sizes_of
from efn_ros.bank.store.reader import BankReader
from efn_ros.bank.store.retention import UNLIMITED, Retention
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.features.sketches import Projection
from efn_ros.types import Rollout


class BankWriter:
    """The one writer of a bank; makes the bank if there is none, and sweeps what an earlier writer left half done.

    image_quality: of JPEG, 1 to 100. retention: what `retain` keeps to. Raises BankLockedError while another writer has
    the bank open, BankFormatError and
    BankProjectionError for a bank that this one must not write to.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        projection: Projection,
        image_quality: int = 90,
        retention: Retention = UNLIMITED,
    ) -> None:
        if not 1 <= image_quality <= 100:
            raise ValueError(f"image_quality is {image_quality}; JPEG knows 1 to 100")
        self._directory = Path(directory).absolute()
        self._payloads = self._directory / PAYLOADS
        self._projection, self._image_quality, self._retention = projection, image_quality, retention
        self._mutex, self._reader = threading.Lock(), None
        made = [path for path in (self._payloads, *self._payloads.parents) if not path.exists()]
        self._payloads.mkdir(parents=True, exist_ok=True)
        for path in made:
            files.sync(path.parent)
        self._lock = lock(self._directory)
        try:
            catalogue = self._directory / CATALOGUE
            if not catalogue.exists() or not catalogue.stat().st_size:
                self._refuse_orphans()
            self._catalogue = connect(self._directory / CATALOGUE)
            try:
                self._open()
                sweep(self._catalogue, self._directory)
            except BaseException:
                self._catalogue.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        self._closed = False

    @property
    def revision(self) -> int:
        """Grows by one with every append; 0 for an empty bank."""
        return int(self._meta("revision"))

    @property
    def rollouts(self) -> int:
        """How many are in the bank."""
        return self._catalogue.execute("SELECT count(*) FROM rollout").fetchone()[0]

    @property
    def steps(self) -> int:
        """How many decisions are in the bank."""
        return self._catalogue.execute("SELECT coalesce(sum(decisions), 0) FROM rollout").fetchone()[0]

    def __contains__(self, rollout_id: str) -> bool:
        row = self._catalogue.execute("SELECT 1 FROM rollout WHERE id = ?", (rollout_id,)).fetchone()
        return row is not None

    def append(self, rollout: Rollout) -> int:
        """Store a rollout; on return it survives a crash of process and machine. Returns the bank's new revision.

        Raises ValueError, naming field and value, for a rollout that is empty, incomplete, not finite, of other sizes
        than the bank's or already there; BankWriteError when the disk refuses. Either leaves the bank as it was.
        """
        with self._mutex, _writable(self._directory):
            sizes = self._check(rollout)
            return self._store(codec.encode(rollout, self._image_quality, self._projection.identity), sizes)

    def adopt(self, rollout: StoredRollout) -> int:
        """Store a rollout of another bank as it is; else as `append`.

        Raises BankCorruptionError for one whose payload is not what was written, BankProjectionError for another
        projection, and ValueError for one of other sizes than the bank's or already there.
        """
        with self._mutex, _writable(self._directory):
            record = rollout.record
            self._check_new(record.id)
            content = rollout.content()
            projection = codec.unpack(content)[1]["projection"]
            if projection != self._projection.identity:
                raise BankProjectionError(
                    f"rollout {record.id!r} was made with projection {projection}, the bank {self._directory} with "
                    f"{self._projection.identity}; its keys cannot be compared here"
                )
            found = codec.sizes_in(content)
            sizes = json.loads(self._meta("sizes")) or found
            for name, size in found.items():
                if size != sizes[name]:
                    raise ValueError(f"rollout {record.id!r}: {name} has shape {size}; the bank holds {sizes[name]}")
            return self._store(content, sizes)

    def forget(self, *rollout_ids: str, reason: str) -> int:
        """Remove rollouts for good; on return they are gone from catalogue and disk, whatever crashes then. Returns the
        bank's new revision.

        What is left of them is a line in `forgotten`: identifier, task, outcome, size, when and `reason`. An episode
        that recalls one of them goes on with what it has; the next one does without. Raises KeyError, naming them, for
        rollouts that are not in the bank, and BankWriteError when the disk refuses; either leaves the bank as it was,
        unless the error says that only files are left.
        """
        with self._mutex:
            self._check_open()
            payloads = self._payloads_of(rollout_ids)
            try:
                with transaction(self._catalogue):
                    revision, told = self._grow(), (time.time_ns(), reason)
                    for id_ in payloads:
                        self._catalogue.execute(
                            "INSERT INTO forgotten SELECT serial, id, task, outcome, decisions, payload, revision,"
                            " seal, ?, ?, ? FROM rollout WHERE id = ?",
                            (revision, *told, id_),
                        )
                        self._catalogue.execute("DELETE FROM rollout WHERE id = ?", (id_,))
                    self._catalogue.execute("DELETE FROM instruction WHERE id NOT IN (SELECT instruction FROM rollout)")
            except sqlite3.Error as error:
                raise BankWriteError(
                    f"nothing is forgotten in {self._directory}: {error}; free space or repair the disk, then repeat it"
                ) from error
            try:
                for name in payloads.values():
                    (self._payloads / name).unlink(missing_ok=True)
                files.sync(self._payloads)
                # The log still holds what was deleted; this writes the wiped pages back and empties it.
                (busy, *_) = self._catalogue.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    raise OSError("a reader held the catalogue all the while")
            except (OSError, sqlite3.Error) as error:
                raise BankWriteError(
                    f"{len(payloads)} rollouts are forgotten in {self._directory}, but traces of them could not be "
                    f"removed: {error}; the next writer that opens the bank removes them"
                ) from error
            return revision

    def forgotten(self) -> set[str]:
        """Identifiers of what was forgotten, by hand or by a budget."""
        return {id_ for (id_,) in self._catalogue.execute("SELECT id FROM forgotten")}

    def retain(self) -> list[str]:
        """Forget what the budget leaves no room for; which, first first. Raises as `forget` does."""
        if not self._retention.limited:
            return []
        if self._reader is None:
            self._reader = BankReader(self._directory)
        gone = [r.record.id for r in self._retention.excess(self._reader.snapshot().rollouts)]
        if gone:
            self.forget(*gone, reason=f"over budget, {self._retention.strategy}")
        return gone

    def _refuse_orphans(self) -> None:
        if any(self._payloads.glob("*.safetensors")):
            raise BankFormatError(
                f"{self._directory} holds payloads but no catalogue; make it one with ./efn bank rebuild "
                f"{self._directory}, or name another bank"
            )

    def _payloads_of(self, rollout_ids: Sequence[str]) -> dict[str, str]:
        found = {}
        for id_ in rollout_ids:
            row = self._catalogue.execute("SELECT payload FROM rollout WHERE id = ?", (id_,)).fetchone()
            found[id_] = row[0] if row else ""
        if missing := [id_ for id_, name in found.items() if not name]:
            raise KeyError(f"{', '.join(map(repr, missing))} not in the bank {self._directory}; nothing is forgotten")
        return found

    def close(self) -> None:
        """Release the bank; a second call does nothing."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._catalogue.close()
                os.close(self._lock)

    def __enter__(self) -> BankWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        with readable(self._directory / CATALOGUE):
            new = check_format(self._catalogue, self._directory)
            self._catalogue.execute("PRAGMA journal_mode = WAL")
        self._catalogue.execute("PRAGMA synchronous = FULL")
        self._catalogue.execute("PRAGMA foreign_keys = ON")
        self._catalogue.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
        if not new:
            check_projection(self._catalogue, self._directory, self._projection)
            return
        self._refuse_orphans()
        with transaction(self._catalogue):
            make(self._catalogue, self._projection.identity)
        files.sync(self._directory)
        files.sync(self._directory.parent)

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

    def _check(self, rollout: Rollout) -> dict[str, list[int]]:
        self._check_new(rollout.episode_id)
        if not rollout.steps:
            raise ValueError(f"rollout {rollout.episode_id!r}: steps is (); at least one decision is needed")
        sizes = json.loads(self._meta("sizes")) or sizes_of(rollout)
        width = [self._projection.output_size]
        if sizes["key"] != width or sizes["sketch"][-1:] != width:
            raise ValueError(
                f"rollout {rollout.episode_id!r}: key and sketch have shapes {tuple(sizes['key'])} and "
                f"{tuple(sizes['sketch'])}; projection {self._projection.identity} gives rows of {width[0]}"
            )
        check(rollout, sizes)
        for name, expected in (("policy", rollout.policy), ("projection", self._projection.identity)):
            for row, step in enumerate(rollout.steps):
                value = getattr(step.policy_step, name)
                if value not in ("", expected):
                    raise ValueError(
                        f"rollout {rollout.episode_id!r}: steps[{row}].{name} is {value!r}; it must be {expected!r}"
                    )
        return sizes

    def _store(self, content: bytes, sizes: dict) -> int:
        row = file_row(content)
        try:
            files.create(self._payloads, row["payload"], content)
            return self._commit(row, sizes)
        except (OSError, sqlite3.Error) as error:
            raise BankWriteError(
                f"rollout {row['id']!r} is not stored in {self._directory}: {error}; "
                "free space or repair the disk, then append it again"
            ) from error

    def _commit(self, row: dict, sizes: dict) -> int:
        with transaction(self._catalogue):
            revision = self._grow(sizes=json.dumps(sizes))
            insert(self._catalogue, row | {"revision": revision})
        return revision

    def _grow(self, **meta: str) -> int:
        """To the next revision, with what else changes in `meta`; within a transaction."""
        revision = self.revision + 1
        for name, value in {"revision": str(revision), **meta}.items():
            self._catalogue.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        store_meta_checksum(self._catalogue)
        return revision


@contextlib.contextmanager
def _writable(directory: Path):
    try:
        yield
    except sqlite3.Error as error:
        raise BankWriteError(
            f"the bank {directory} cannot be written to now: {error}; look at the disk, then do it again"
        ) from error


def file_row(content: bytes) -> dict:
    """What the catalogue says of a payload, but for the revision."""
    digest = checksum(content)
    file = {"payload": codec.name_of(digest), "payload_size": len(content)}
    return codec.row_of(content) | file | {"payload_checksum": bytes.fromhex(digest)}


def sweep(catalogue: sqlite3.Connection, directory: Path) -> None:
    """Tidy up after a writer that was killed, or files that came by another way.

    What is half written goes, and what is forgotten. Any other payload that the catalogue does not name is set aside,
    in `orphaned/`: it may be the one append that was not committed, or all that a replaced catalogue has left.
    """
    names = {name for (name,) in catalogue.execute("SELECT payload FROM rollout")}
    forgotten = {name for (name,) in catalogue.execute("SELECT payload FROM forgotten")}
    for path in (directory / PAYLOADS).iterdir():
        if path.suffix == ".tmp" or (path.name in forgotten and path.name not in names):
            path.unlink()
        elif path.suffix == ".safetensors" and path.name not in names:
            (directory / ORPHANED).mkdir(exist_ok=True)
            os.replace(path, directory / ORPHANED / path.name)
