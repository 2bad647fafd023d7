"""The catalogue: which rollouts a bank holds, in SQLite. It is the truth: what it does not name is not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from efn_ros.bank.format.codec import FORMAT_VERSION
from efn_ros.bank.format.errors import (
    BankCorruptionError,
    BankFormatError,
    BankLockedError,
    BankProjectionError,
    BankUnavailableError,
)
from efn_ros.features.sketches import Projection
from efn_ros.types import Outcome

CATALOGUE = "catalogue.sqlite"
PAYLOADS, ORPHANED = "payloads", "orphaned"
LOCK = "writer.lock"
APPLICATION_ID = 0x45464E42  # "EFNB"
BUSY_TIMEOUT_S = 10.0

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
    explored TEXT NOT NULL,
    seal BLOB NOT NULL
);
CREATE INDEX rollout_revision ON rollout (revision);
CREATE TABLE forgotten (
    serial INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    outcome INTEGER NOT NULL,
    decisions INTEGER NOT NULL,
    payload TEXT NOT NULL,
    appended INTEGER NOT NULL,
    seal BLOB NOT NULL,
    revision INTEGER NOT NULL,
    forgotten_ns INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX forgotten_revision ON forgotten (revision);
CREATE INDEX forgotten_appended ON forgotten (appended)
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


def make(catalogue: sqlite3.Connection, projection: str, *, revision: int = 0, sizes: dict | None = None) -> None:
    """The tables of a new bank, within a transaction. sizes: that all its rollouts share; none yet."""
    for statement in SCHEMA.split(";"):
        catalogue.execute(statement)
    meta = {"revision": str(revision), "projection": projection, "sizes": json.dumps(sizes or {})}
    meta["identity"] = secrets.token_hex(8)
    catalogue.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    store_meta_checksum(catalogue)
    catalogue.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    catalogue.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


CHECKED = (
    "id", "robot", "task", "text", "embedding", "seed", "outcome", "length", "decisions", "recallable", "start_ns",
    "policy", "revision", "payload", "payload_size", "payload_checksum", "explored",
)  # fmt: skip
ROWS = "SELECT rollout.*, text, embedding FROM rollout LEFT JOIN instruction ON instruction.id = rollout.instruction"


def insert(catalogue: sqlite3.Connection, row: dict[str, str | int | bytes]) -> None:
    """Add a rollout, whose columns are those of SEALED: of the table, and text and embedding of its instruction."""
    told = row["text"], row["embedding"]
    catalogue.execute("INSERT OR IGNORE INTO instruction (text, embedding) VALUES (?, ?)", told)
    (instruction,) = catalogue.execute("SELECT id FROM instruction WHERE text = ? AND embedding = ?", told).fetchone()
    own = {name: row[name] for name in CHECKED if name not in ("text", "embedding")}
    own |= {"instruction": instruction, "seal": row_checksum(row)}
    marks = ", ".join("?" * len(own))
    catalogue.execute(f"INSERT INTO rollout ({', '.join(own)}) VALUES ({marks})", tuple(own.values()))


def row_checksum(row: Mapping[str, str | int | bytes]) -> bytes:
    """Return BLAKE2b of a row of ROWS (its column `seal`), by which a changed byte in the catalogue is found."""
    values = [value.hex() if isinstance(value := row[name], bytes) else value for name in CHECKED]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).digest()


def store_meta_checksum(catalogue: sqlite3.Connection) -> None:
    """Store the checksum of `meta`; within the transaction that changes it."""
    catalogue.execute("INSERT OR REPLACE INTO meta VALUES ('seal', ?)", (meta_checksum(read_meta(catalogue)),))


def meta_checksum(meta: dict[str, str]) -> str:
    """Return the checksum of `meta`, in hexadecimal."""
    said = sorted((name, value) for name, value in meta.items() if name != "seal")
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


def read_meta(catalogue: sqlite3.Connection) -> dict[str, str]:
    return dict(tuple(row) for row in catalogue.execute("SELECT name, value FROM meta"))


def record_of(row: sqlite3.Row) -> RolloutRecord:
    """Of a row of ROWS. Raises BankCorruptionError for one that says what no writer writes."""
    fields = {name: row[name] for name in RECORD}
    try:
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
    except (ValueError, AttributeError) as error:
        raise BankCorruptionError(
            f"the catalogue's row of rollout {fields['id']!r} is damaged ({error}); make the catalogue anew with ./efn "
            "bank rebuild"
        ) from error


def lock(directory: Path) -> int:
    """Take the writer's lock; the kernel gives it back when its process ends, however that ends."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise BankLockedError(
            f"the bank {directory} has a writer already, process {holder}; close that one, a bank has one writer"
        ) from error
    with contextlib.suppress(OSError):  # who holds it is only told to people; a full disk must not stop a forgetting
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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
            raise BankUnavailableError(
                f"{path} cannot be read now: {error}; look at the disk, then ask again"
            ) from error
        raise BankFormatError(f"{path} cannot be read as a catalogue ({error}); name another bank") from error


def check_format(catalogue: sqlite3.Connection, directory: Path) -> bool:
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


def check_projection(catalogue: sqlite3.Connection, directory: Path, projection: Projection) -> None:
    made_with = catalogue.execute("SELECT value FROM meta WHERE name = 'projection'").fetchone()[0]
    if made_with != projection.identity:
        raise BankProjectionError(
            f"the bank {directory} was made with projection {made_with}, not {projection.identity}; "
            "set that projection's sizes and seed, or name another bank"
        )
