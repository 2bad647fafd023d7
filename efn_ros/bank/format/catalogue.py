# SPDX-License-Identifier: MIT
"""Catalogue of a bank in SQLite: the authoritative list of its rollouts; a file that it does not name is no rollout."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
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

# Names of tables and columns are part of the format: `forgotten` lists removed rollouts, `seal` is a row's checksum.
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

CHECKED_COLUMNS = (
    "id", "robot", "task", "text", "embedding", "seed", "outcome", "length", "decisions", "recallable", "start_ns",
    "policy", "revision", "payload", "payload_size", "payload_checksum", "explored",
)  # fmt: skip
SELECT_ROWS = (
    "SELECT rollout.*, text, embedding FROM rollout LEFT JOIN instruction ON instruction.id = rollout.instruction"
)


@dataclass(frozen=True)
class RolloutRecord:
    """One row of the catalogue."""

    id: str  # of the episode
    robot: str  # name of the robot
    task: str  # name of the task
    instruction: str  # in natural language
    seed: int  # of the episode
    outcome: Outcome  # how it ended
    length: int  # control steps
    decisions: int  # stored decisions
    recallable: int  # decisions that are not blank
    start_ns: int  # stamp of its beginning, nanoseconds
    policy: str  # fingerprint of the frozen policy
    revision: int  # of the bank when the rollout was appended
    payload: str  # name of its file
    payload_size: int  # bytes
    payload_checksum: str  # BLAKE2b of its bytes, in hexadecimal
    explored: dict[str, int]  # mode of exploration to the number of decisions that it changed


RECORD_FIELDS = [f.name for f in fields(RolloutRecord)]


def create_tables(
    catalogue: sqlite3.Connection, projection: str, *, revision: int = 0, sizes: dict | None = None
) -> None:
    """Create the tables of a new bank; to be called within a transaction.

    Args:
        catalogue: Empty.
        projection: Identity of the bank's projection.
        revision: Of the bank.
        sizes: Shapes that all its rollouts share; None before there is one.
    """
    for statement in SCHEMA.split(";"):
        catalogue.execute(statement)
    meta = {"revision": str(revision), "projection": projection, "sizes": json.dumps(sizes or {})}
    meta["identity"] = secrets.token_hex(8)
    catalogue.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    store_meta_checksum(catalogue)
    catalogue.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    catalogue.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def insert(catalogue: sqlite3.Connection, row: dict[str, str | int | bytes]) -> None:
    """Add a rollout with all CHECKED_COLUMNS: those of the table, and text and embedding of its instruction."""
    key = row["text"], row["embedding"]
    catalogue.execute("INSERT OR IGNORE INTO instruction (text, embedding) VALUES (?, ?)", key)
    (instruction,) = catalogue.execute("SELECT id FROM instruction WHERE text = ? AND embedding = ?", key).fetchone()
    own = {name: row[name] for name in CHECKED_COLUMNS if name not in ("text", "embedding")}
    own |= {"instruction": instruction, "seal": row_checksum(row)}
    marks = ", ".join("?" * len(own))
    catalogue.execute(f"INSERT INTO rollout ({', '.join(own)}) VALUES ({marks})", tuple(own.values()))


def row_checksum(row: Mapping[str, str | int | bytes]) -> bytes:
    """Return BLAKE2b of a row of SELECT_ROWS, its column `seal`, which reveals a changed byte in the catalogue."""
    values = [value.hex() if isinstance(value := row[name], bytes) else value for name in CHECKED_COLUMNS]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).digest()


def store_meta_checksum(catalogue: sqlite3.Connection) -> None:
    """Store the checksum of table `meta`; to be called within the transaction that changes it."""
    catalogue.execute("INSERT OR REPLACE INTO meta VALUES ('seal', ?)", (meta_checksum(read_meta(catalogue)),))


def meta_checksum(meta: dict[str, str]) -> str:
    """Return the checksum of table `meta`, in hexadecimal."""
    entries = sorted((name, value) for name, value in meta.items() if name != "seal")
    return hashlib.blake2b(json.dumps(entries).encode(), digest_size=8).hexdigest()


def read_meta(catalogue: sqlite3.Connection) -> dict[str, str]:
    """Return the contents of table `meta`."""
    return dict(tuple(row) for row in catalogue.execute("SELECT name, value FROM meta"))


def record_from_row(row: sqlite3.Row) -> RolloutRecord:
    """Return the record of a row of SELECT_ROWS.

    Raises:
        BankCorruptionError: The row has values that no writer writes.
    """
    values = {name: row[name] for name in RECORD_FIELDS}
    try:
        values |= {
            "instruction": row["text"],
            "seed": int(values["seed"]),
            "outcome": Outcome(values["outcome"]),
            "payload_checksum": values["payload_checksum"].hex(),
            "explored": json.loads(values["explored"]),
        }
    except (ValueError, AttributeError) as error:
        raise BankCorruptionError(
            f"the catalogue's row of rollout {values['id']!r} is damaged ({error}); make a new catalogue with ./efn "
            "bank rebuild"
        ) from error
    return RolloutRecord(**values)


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the writer's lock of a bank; the kernel releases it, too, when the process ends.

    Raises:
        BankLockedError: Another writer holds it.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise BankLockedError(
                f"the bank {directory} has a writer already, process {holder}; close that one, a bank has one writer"
            ) from error
        with contextlib.suppress(OSError):  # the holder is only for messages; a full disk must not stop a removal
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a catalogue, in autocommit mode and for any thread."""
    uri = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"  # on a read-only medium SQLite cannot make the files that WAL needs
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(catalogue: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Commit what the body does, or roll it back if it raises."""
    catalogue.execute(begin)
    try:
        yield
        catalogue.execute("COMMIT")
    except BaseException:
        if catalogue.in_transaction:
            catalogue.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite as BankUnavailableError or BankFormatError."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
            raise BankUnavailableError(f"{path} cannot be read now: {error}; check the disk and try again") from error
        raise BankFormatError(f"{path} cannot be read as a catalogue ({error}); name another bank") from error


def check_format(catalogue: sqlite3.Connection, directory: Path) -> bool:
    """Check that a catalogue has the present format; return whether it has no tables yet.

    Raises:
        BankFormatError: It has another format, or belongs to another program.
    """
    application = catalogue.execute("PRAGMA application_id").fetchone()[0]
    version = catalogue.execute("PRAGMA user_version").fetchone()[0]
    tables = catalogue.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != APPLICATION_ID:
        raise BankFormatError(f"{directory / CATALOGUE} belongs to another program; name another directory")
    if version != FORMAT_VERSION:
        migration = f"convert it with ./efn bank migrate {directory}"
        raise BankFormatError(
            f"the bank {directory} has format {version}, this efn_ros reads {FORMAT_VERSION}; "
            f"{migration if version < FORMAT_VERSION else 'use the efn_ros that made it, or name another bank'}"
        )
    return False


def check_projection(catalogue: sqlite3.Connection, directory: Path, projection: Projection) -> None:
    """Check that a bank was made with a projection.

    Raises:
        BankProjectionError: It was made with another one.
    """
    made_with = catalogue.execute("SELECT value FROM meta WHERE name = 'projection'").fetchone()[0]
    if made_with != projection.identity:
        raise BankProjectionError(
            f"the bank {directory} was made with projection {made_with}, not {projection.identity}; "
            "set that projection's sizes and seed, or name another bank"
        )
