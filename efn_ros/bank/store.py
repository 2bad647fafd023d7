"""The bank on disk: a SQLite catalogue, which is the truth, and one immutable payload file for each rollout.

A rollout is appended in this order: payload under a temporary name, fsync, rename, fsync of the directory, commit of
the catalogue. So whatever the catalogue names is whole, and whatever it does not name is swept when a writer opens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from efn_ros import durable
from efn_ros.bank import payload
from efn_ros.bank.contents import Contents
from efn_ros.bank.errors import (
    BankCorruptionError,
    BankFormatError,
    BankLockedError,
    BankProjectionError,
    BankWriteError,
)
from efn_ros.bank.payload import FORMAT_VERSION, PayloadFile, StepArrays, Steps
from efn_ros.bank.sketches import Projection
from efn_ros.types import Outcome, Quantised, Rollout

CATALOGUE = "catalogue.sqlite"
PAYLOADS = "payloads"
LOCK = "writer.lock"
APPLICATION_ID = 0x45464E42  # "EFNB"
BUSY_TIMEOUT_S = 10.0
CACHE_BYTES = 256 * 2**20

SCHEMA = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE instruction (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL,
    embedding BLOB NOT NULL,
    UNIQUE (text, embedding)
);
CREATE TABLE rollout (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    robot TEXT NOT NULL,
    task TEXT NOT NULL,
    instruction INTEGER NOT NULL REFERENCES instruction (id),
    seed TEXT NOT NULL,
    outcome INTEGER NOT NULL,
    length INTEGER NOT NULL CHECK (length > 0),
    decisions INTEGER NOT NULL CHECK (decisions > 0),
    recallable INTEGER NOT NULL CHECK (recallable BETWEEN 0 AND decisions),
    start_ns INTEGER NOT NULL,
    policy TEXT NOT NULL,
    revision INTEGER NOT NULL,
    payload TEXT NOT NULL UNIQUE,
    payload_size INTEGER NOT NULL,
    payload_checksum BLOB NOT NULL,
    explored TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX rollout_revision ON rollout (revision);
CREATE TABLE forgotten (
    serial INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    outcome INTEGER NOT NULL,
    decisions INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    forgotten_ns INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX forgotten_revision ON forgotten (revision)
"""


@dataclass(frozen=True)
class RolloutRecord:
    """One row of the catalogue.

    length: control steps. decisions: of them `recallable` are not blank. payload_size: bytes. revision: of the bank
    when the rollout was appended. payload, payload_checksum: name of its file and blake2b of its bytes, in hexadecimal.
    explored: mode of exploration -> decisions that it probed.
    """

    id: str
    robot: str
    task: str
    instruction: str
    seed: int
    outcome: Outcome
    length: int
    decisions: int
    recallable: int
    start_ns: int
    policy: str
    revision: int
    payload: str
    payload_size: int
    payload_checksum: str
    explored: dict[str, int]


RECORD = [f.name for f in fields(RolloutRecord)]
T = TypeVar("T")


class StepsCache:
    """What recall has read of rollouts, those longest unused dropped beyond so many bytes.

    skip_corrupt: a rollout that cannot be read is None and its error is kept in `corrupt`, by the rollout's identifier;
    else the error is raised.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, *, skip_corrupt: bool = False) -> None:
        self._limit_bytes, self._skip_corrupt, self._bytes = limit_bytes, skip_corrupt, 0
        self._steps: OrderedDict[Path, Steps] = OrderedDict()
        self._mutex = threading.Lock()
        self.corrupt: dict[str, str] = {}

    def steps(self, rollout: StoredRollout) -> Steps | None:
        with self._mutex:
            if (known := self._steps.get(rollout.path)) is not None:
                self._steps.move_to_end(rollout.path)
                return known
        if (steps := self.tolerate(rollout, lambda: rollout.open().steps())) is None:
            return None
        with self._mutex:
            self._bytes += steps.nbytes if rollout.path not in self._steps else 0
            self._steps[rollout.path] = steps
            while self._bytes > self._limit_bytes and len(self._steps) > 1:
                self._bytes -= self._steps.popitem(last=False)[1].nbytes
        return steps

    def tolerate(self, rollout: StoredRollout, read: Callable[[], T]) -> T | None:
        """What `read` reads. Any error of its own is a BankCorruptionError."""
        if rollout.record.id in self.corrupt:
            return None
        try:
            return read()
        except (OSError, ValueError, BankCorruptionError) as error:
            corrupt = error if isinstance(error, BankCorruptionError) else rollout.corrupt(error)
            if not self._skip_corrupt:
                raise corrupt from error
            self.corrupt[rollout.record.id] = str(corrupt)
            return None


@dataclass(frozen=True, eq=False)
class StoredRollout:
    """A remembered rollout; what is not in the catalogue is read when it is asked for.

    instruction_embedding: float32 (E,), the same array for the same `instruction_id` of the catalogue.
    """

    record: RolloutRecord
    instruction_id: int
    instruction_embedding: np.ndarray
    path: Path
    cache: StepsCache

    @property
    def steps(self) -> Steps | None:
        """What recall compares and returns. Raises BankCorruptionError; None where the reader skips what is corrupt."""
        return self.cache.steps(self)

    @cached_property
    def arrays(self) -> StepArrays:
        """All decisions; kept. Raises BankCorruptionError for a payload that is not what was written."""
        return payload.decode(self.content())

    def content(self) -> bytes:
        """The whole payload. Raises BankCorruptionError, naming file and rollout, if it is not what was written."""
        record = self.record
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise self.corrupt(f"it cannot be read ({error})") from error
        if len(content) != record.payload_size:
            raise self.corrupt(f"it has {len(content)} bytes, written were {record.payload_size}")
        if checksum(content) != record.payload_checksum:
            raise self.corrupt("its checksum is not the one that was written")
        return content

    def open(self) -> PayloadFile:
        """Its payload, to read in parts. Raises OSError."""
        return PayloadFile(self.path)

    def sketches(self, *rows: int) -> list[Quantised]:
        """Visual tokens of some decisions, each q int8 (T, d), scale float32 (T,). Raises BankCorruptionError."""
        try:
            return self.open().sketches(rows)
        except (OSError, ValueError) as error:
            raise self.corrupt(f"sketches {rows} cannot be read ({error})") from error

    def corrupt(self, what: object) -> BankCorruptionError:
        """The error that names its payload."""
        return BankCorruptionError(
            f"payload {self.path} of rollout {self.record.id!r}: {what}; restore the file from a copy"
        )


@dataclass(frozen=True)
class Snapshot:
    """All rollouts at one revision, oldest first.

    projection: identity of the one the bank was made with, empty before there is a bank. contents: of the rollouts,
    column by column. skipped: identifiers of corrupt rollouts that were found and left out, if the reader skips them.
    """

    revision: int = 0
    projection: str = ""
    rollouts: tuple[StoredRollout, ...] = ()
    contents: Contents = field(default_factory=Contents)
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, rollouts: Sequence[StoredRollout], revision: int, projection: str) -> Snapshot:
        """Of rollouts of one bank."""
        return cls(revision, projection, tuple(rollouts), Contents().extended(rollouts))

    def extended(self, rollouts: Sequence[StoredRollout], revision: int) -> Snapshot:
        """With these after the others."""
        contents = self.contents.extended(rollouts)
        return replace(self, revision=revision, rollouts=(*self.rollouts, *rollouts), contents=contents)

    def only(self, kept: np.ndarray) -> Snapshot:
        """The rollouts that `kept`, bool (R,), names."""
        rollouts = tuple(itertools.compress(self.rollouts, kept.tolist()))
        return replace(self, rollouts=rollouts, contents=self.contents.only(kept))


class BankWriter:
    """The one writer of a bank; makes the bank if there is none, and sweeps what an earlier writer left half done.

    image_quality: of JPEG, 1 to 100. Raises BankLockedError while another writer has the bank open, BankFormatError and
    BankProjectionError for a bank that this one must not write to.
    """

    def __init__(self, directory: str | Path, *, projection: Projection, image_quality: int = 90) -> None:
        if not 1 <= image_quality <= 100:
            raise ValueError(f"image_quality is {image_quality}; JPEG knows 1 to 100")
        self._directory = Path(directory).absolute()
        self._payloads = self._directory / PAYLOADS
        self._projection, self._image_quality = projection, image_quality
        self._mutex = threading.Lock()
        self._payloads.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self._directory)
        try:
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
        with self._mutex:
            sizes = self._check(rollout)
            content, recallable = payload.encode(rollout, self._image_quality)
            digest = checksum(content)
            name = payload.name_of(digest)
            try:
                write_durably(self._payloads, name, content)
                return self._commit(rollout, sizes, recallable, name, len(content), digest)
            except (OSError, sqlite3.Error) as error:
                raise BankWriteError(
                    f"rollout {rollout.episode_id!r} is not stored in {self._directory}: {error}; "
                    "free space or repair the disk, then append it again"
                ) from error

    def forget(self, *rollout_ids: str, reason: str) -> int:
        """Remove rollouts for good; on return they are gone from catalogue and disk, whatever crashes then. Returns the
        bank's new revision.

        What is left of them is a line in `forgotten`: identifier, task, outcome, size, when and `reason`. An episode
        that recalls one of them goes on with what it has; the next one does without. Raises KeyError, naming them, for
        rollouts that are not in the bank, and BankWriteError when the disk refuses; either leaves the bank as it was,
        unless the error says that only files are left.
        """
        with self._mutex:
            if self._closed:
                raise ValueError(f"the bank {self._directory} is closed; open another BankWriter")
            payloads = self._payloads_of(rollout_ids)
            try:
                with transaction(self._catalogue):
                    revision, told = self.revision + 1, (time.time_ns(), reason)
                    self._catalogue.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (str(revision),))
                    for id_ in payloads:
                        self._catalogue.execute(
                            "INSERT INTO forgotten SELECT serial, id, task, outcome, decisions, ?, ?, ? FROM rollout"
                            " WHERE id = ?",
                            (revision, *told, id_),
                        )
                        self._catalogue.execute("DELETE FROM rollout WHERE id = ?", (id_,))
                    self._catalogue.execute("DELETE FROM instruction WHERE id NOT IN (SELECT instruction FROM rollout)")
                # The log still holds what was deleted; this writes the wiped pages back and empties it.
                self._catalogue.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                raise BankWriteError(
                    f"nothing is forgotten in {self._directory}: {error}; free space or repair the disk, then repeat it"
                ) from error
            try:
                for name in payloads.values():
                    (self._payloads / name).unlink(missing_ok=True)
                durable.sync(self._payloads)
            except OSError as error:
                raise BankWriteError(
                    f"{len(payloads)} rollouts are forgotten in {self._directory}, but a payload could not be removed: "
                    f"{error}; the next writer that opens the bank removes it"
                ) from error
            return revision

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
            new = _check_format(self._catalogue, self._directory)
            self._catalogue.execute("PRAGMA journal_mode = WAL")
        self._catalogue.execute("PRAGMA synchronous = FULL")
        self._catalogue.execute("PRAGMA foreign_keys = ON")
        self._catalogue.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
        if not new:
            _check_projection(self._catalogue, self._directory, self._projection)
            return
        with transaction(self._catalogue):
            for statement in SCHEMA.split(";"):
                self._catalogue.execute(statement)
            meta = {"revision": "0", "projection": self._projection.identity, "sizes": "{}"}
            meta["identity"] = secrets.token_hex(8)
            self._catalogue.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
            self._catalogue.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._catalogue.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        durable.sync(self._directory)
        durable.sync(self._directory.parent)

    def _meta(self, name: str) -> str:
        return self._catalogue.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]

    def _check(self, rollout: Rollout) -> dict[str, list[int]]:
        if self._closed:
            raise ValueError(f"the bank {self._directory} is closed; open another BankWriter")
        if not rollout.episode_id:
            raise ValueError("episode_id of the rollout is ''; give it one that is unique in the bank")
        if not rollout.steps:
            raise ValueError(f"rollout {rollout.episode_id!r}: steps is (); at least one decision is needed")
        if self._catalogue.execute("SELECT 1 FROM rollout WHERE id = ?", (rollout.episode_id,)).fetchone():
            raise ValueError(f"rollout {rollout.episode_id!r}: episode_id is in the bank already; it must be unique")
        sizes = json.loads(self._meta("sizes")) or payload.sizes_of(rollout)
        width = [self._projection.output_size]
        if sizes["key"] != width or sizes["sketch"][-1:] != width:
            raise ValueError(
                f"rollout {rollout.episode_id!r}: key and sketch have shapes {tuple(sizes['key'])} and "
                f"{tuple(sizes['sketch'])}; projection {self._projection.identity} gives rows of {width[0]}"
            )
        payload.check(rollout, sizes)
        for name, expected in (("policy", rollout.policy), ("projection", self._projection.identity)):
            for row, step in enumerate(rollout.steps):
                value = getattr(step.policy_step, name)
                if value not in ("", expected):
                    raise ValueError(
                        f"rollout {rollout.episode_id!r}: steps[{row}].{name} is {value!r}; it must be {expected!r}"
                    )
        return sizes

    def _commit(self, rollout: Rollout, sizes: dict, recallable: np.ndarray, name: str, size: int, digest: str) -> int:
        embedding = np.ascontiguousarray(rollout.steps[0].policy_step.instruction_embedding, "<f4")
        explored = Counter(step.correction.exploration for step in rollout.steps if step.correction.exploration)
        with transaction(self._catalogue):
            revision = self.revision + 1
            self._catalogue.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (str(revision),))
            self._catalogue.execute("UPDATE meta SET value = ? WHERE name = 'sizes'", (json.dumps(sizes),))
            told = (rollout.instruction, embedding.tobytes())
            self._catalogue.execute("INSERT OR IGNORE INTO instruction (text, embedding) VALUES (?, ?)", told)
            self._catalogue.execute(
                "INSERT INTO rollout (id, robot, task, instruction, seed, outcome, length, decisions, recallable,"
                " start_ns, policy, revision, payload, payload_size, payload_checksum, explored) VALUES (?, ?, ?,"
                " (SELECT id FROM instruction WHERE text = ? AND embedding = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    rollout.episode_id,
                    rollout.robot,
                    rollout.task,
                    *told,
                    str(int(rollout.seed)),
                    int(rollout.outcome),
                    int(rollout.length),
                    len(rollout.steps),
                    int(recallable.sum()),
                    int(rollout.start_ns),
                    rollout.policy,
                    revision,
                    name,
                    size,
                    bytes.fromhex(digest),
                    json.dumps(explored),
                ),
            )
        return revision


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
        self._projection, self._skip_corrupt = projection, skip_corrupt
        self._cache = StepsCache(cache_bytes, skip_corrupt=skip_corrupt)
        self._embeddings: dict[int, np.ndarray] = {}
        self._identity, self._snapshot = "", Snapshot()
        self._serials = np.zeros(0, np.int64)
        self._refresh()

    @property
    def corrupt(self) -> dict[str, str]:
        """What was found corrupt so far and is skipped: identifier of the rollout -> what is wrong with it."""
        return dict(self._cache.corrupt)

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
                self._cache.tolerate(rollout, lambda: rollout.arrays)  # noqa: B023
        if not self._cache.corrupt:
            return whole
        kept = np.array([rollout.record.id not in self._cache.corrupt for rollout in whole.rollouts], bool)
        skipped = tuple(r.record.id for r, good in zip(whole.rollouts, kept, strict=True) if not good)
        return replace(whole.only(kept), skipped=skipped)

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
        rows = np.flatnonzero(payload.decode(content).steps == step)
        if not len(rows):
            raise KeyError(f"step {step} is not in rollout {rollout_id!r}")
        try:
            return payload.decode_image(content, int(rows[0]), camera)
        except KeyError as error:
            raise KeyError(f"camera {camera!r} is not in rollout {rollout_id!r}") from error

    def _refresh(self) -> Snapshot:
        """The catalogue at its present revision, in one read transaction; reads only what is new in it."""
        path = self._directory / CATALOGUE
        if not path.exists():
            self._identity, self._snapshot, self._serials = "", Snapshot(), np.zeros(0, np.int64)
            return self._snapshot
        with readable(path), contextlib.closing(connect(path, read_only=True)) as catalogue:
            catalogue.row_factory = sqlite3.Row
            with transaction(catalogue, "BEGIN"):
                if _check_format(catalogue, self._directory):
                    return self._snapshot
                if self._projection is not None:
                    _check_projection(catalogue, self._directory, self._projection)
                meta = dict(catalogue.execute("SELECT name, value FROM meta"))
                revision = int(meta["revision"])
                if meta["identity"] != self._identity:  # another bank lies where one lay
                    self._identity, self._embeddings, self._serials = meta["identity"], {}, np.zeros(0, np.int64)
                    self._snapshot = Snapshot(projection=meta["projection"])
                since = self._snapshot.revision
                if revision != since:
                    self._follow(catalogue, since, revision)
        return self._snapshot

    def _follow(self, catalogue: sqlite3.Connection, since: int, revision: int) -> None:
        snapshot = self._snapshot
        gone = catalogue.execute("SELECT serial FROM forgotten WHERE revision > ?", (since,)).fetchall()
        if gone:
            kept = ~np.isin(self._serials, [serial for (serial,) in gone])
            snapshot, self._serials = snapshot.only(kept), self._serials[kept]
        rows = catalogue.execute(
            "SELECT rollout.*, text FROM rollout JOIN instruction ON instruction.id = rollout.instruction"
            " WHERE revision > ? ORDER BY serial",
            (since,),
        ).fetchall()
        unknown = {row["instruction"] for row in rows} - self._embeddings.keys()
        for id_ in unknown:
            (blob,) = catalogue.execute("SELECT embedding FROM instruction WHERE id = ?", (id_,)).fetchone()
            self._embeddings[id_] = np.frombuffer(blob, "<f4").astype(np.float32)
        payloads = self._directory / PAYLOADS
        rollouts = [
            StoredRollout(
                record := _record(row),
                row["instruction"],
                self._embeddings[row["instruction"]],
                payloads / record.payload,
                self._cache,
            )
            for row in rows
        ]
        self._serials = np.concatenate([self._serials, np.array([row["serial"] for row in rows], np.int64)])
        self._snapshot = snapshot.extended(rollouts, revision)


def _record(row: sqlite3.Row) -> RolloutRecord:
    fields = {name: row[name] for name in RECORD}
    return RolloutRecord(
        **fields
        | {
            "instruction": row["text"],
            "seed": int(fields["seed"]),
            "outcome": Outcome(fields["outcome"]),
            "payload_checksum": fields["payload_checksum"].hex(),
            "explored": json.loads(fields["explored"]),
        }
    )


def checksum(content: bytes) -> str:
    """BLAKE2b of 32 bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def lock(directory: Path) -> int:
    """Take the writer's lock; the kernel gives it back when its process ends, however that ends."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise BankLockedError(
            f"the bank {directory} has a writer already, process {holder}; close that one, a bank has one writer"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"  # on a read-only medium SQLite cannot make the files that WAL needs
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(catalogue: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE"):
    catalogue.execute(begin)
    try:
        yield
        catalogue.execute("COMMIT")
    except BaseException:
        if catalogue.in_transaction:
            catalogue.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def readable(path: Path):
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise BankFormatError(f"{path} cannot be read as a catalogue ({error}); name another bank") from error


def sweep(catalogue: sqlite3.Connection, directory: Path) -> None:
    """Remove the payloads that the catalogue does not name."""
    named = {name for (name,) in catalogue.execute("SELECT payload FROM rollout")}
    for path in (directory / PAYLOADS).iterdir():
        if path.name not in named and path.suffix in (".safetensors", ".tmp"):
            path.unlink()


def _check_format(catalogue: sqlite3.Connection, directory: Path) -> bool:
    """Whether the catalogue is still without its tables; raises BankFormatError if it is not one of ours."""
    application = catalogue.execute("PRAGMA application_id").fetchone()[0]
    version = catalogue.execute("PRAGMA user_version").fetchone()[0]
    tables = catalogue.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != APPLICATION_ID:
        raise BankFormatError(f"{directory / CATALOGUE} belongs to another program; name another directory")
    if version != FORMAT_VERSION:
        older = f"make it one with ./efn bank migrate {directory}"
        raise BankFormatError(
            f"the bank {directory} has format {version}, this efn_ros reads {FORMAT_VERSION}; "
            f"{older if version < FORMAT_VERSION else 'use the efn_ros that made it, or name another bank'}"
        )
    return False


def _check_projection(catalogue: sqlite3.Connection, directory: Path, projection: Projection) -> None:
    made_with = catalogue.execute("SELECT value FROM meta WHERE name = 'projection'").fetchone()[0]
    if made_with != projection.identity:
        raise BankProjectionError(
            f"the bank {directory} was made with projection {made_with}, not {projection.identity}; "
            "set that projection's sizes and seed, or name another bank"
        )


def write_durably(directory: Path, name: str, content: bytes) -> None:
    temporary, final = directory / f"{name}.tmp", directory / name
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, final)
        durable.sync(directory)
    except OSError:
        for path in (temporary, final):
            with contextlib.suppress(OSError):
                path.unlink()
        raise
