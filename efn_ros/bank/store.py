"""The bank on disk: a SQLite catalogue, which is the truth, and one immutable payload file for each rollout.

A rollout is appended in this order: payload under a temporary name, fsync, rename, fsync of the directory, commit of
the catalogue. So whatever the catalogue names is whole, and whatever it does not name is swept when a writer opens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efn_ros import durable
from efn_ros.bank import payload
from efn_ros.bank.errors import (
    BankCorruptionError,
    BankFormatError,
    BankLockedError,
    BankProjectionError,
    BankWriteError,
)
from efn_ros.bank.keys import mean_latent, unit
from efn_ros.bank.payload import FORMAT_VERSION, FORMAT_VERSIONS, StepArrays
from efn_ros.bank.sketches import Projection
from efn_ros.types import Outcome, Quantised, Rollout

CATALOGUE = "catalogue.sqlite"
PAYLOADS = "payloads"
LOCK = "writer.lock"
APPLICATION_ID = 0x45464E42  # "EFNB"
BUSY_TIMEOUT_S = 10.0

SCHEMA = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE rollout (
    serial INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    robot TEXT NOT NULL,
    task TEXT NOT NULL,
    instruction TEXT NOT NULL,
    instruction_embedding BLOB NOT NULL,
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
)
"""
UPGRADE = "ALTER TABLE rollout ADD COLUMN explored TEXT NOT NULL DEFAULT '{}'"  # from format 1


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


@dataclass(frozen=True)
class StoredRollout:
    """A remembered rollout. Sketches stay on disk until `sketches` asks for some.

    instruction_embedding: float32 (E,). features: float32 (N, d + dz), for each decision its key and its mean latent
    token side by side, both of unit norm (zero where there is none): what (32) and (37) compare.
    """

    record: RolloutRecord
    instruction_embedding: np.ndarray
    arrays: StepArrays
    features: np.ndarray
    path: Path

    def sketches(self, *rows: int) -> list[Quantised]:
        """Visual tokens of some decisions, each q int8 (T, d), scale float32 (T,). Raises BankCorruptionError."""
        try:
            return payload.read_sketches(str(self.path), rows)
        except Exception as error:
            raise _corrupt(self.path, self.record.id, f"sketches {rows} cannot be read ({error})") from error


@dataclass(frozen=True)
class Snapshot:
    """All rollouts at one revision, oldest first.

    projection: identity of the one the bank was made with, empty before there is a bank. skipped: identifiers of
    corrupt rollouts, if the reader skips them.
    """

    revision: int = 0
    projection: str = ""
    rollouts: tuple[StoredRollout, ...] = ()
    skipped: tuple[str, ...] = ()


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
        self._lock = _lock(self._directory)
        try:
            self._catalogue = _connect(self._directory / CATALOGUE)
            try:
                self._open()
                self._sweep()
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
            checksum = _checksum(content)
            # Named for its content, so that a retry after a failure never replaces a file that a commit may have named.
            name = f"{checksum[:32]}.safetensors"
            try:
                _write_durably(self._payloads, name, content)
                return self._commit(rollout, sizes, recallable, name, len(content), checksum)
            except (OSError, sqlite3.Error) as error:
                raise BankWriteError(
                    f"rollout {rollout.episode_id!r} is not stored in {self._directory}: {error}; "
                    "free space or repair the disk, then append it again"
                ) from error

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
        with _readable(self._directory / CATALOGUE):
            new = _check_format(self._catalogue, self._directory)
            self._catalogue.execute("PRAGMA journal_mode = WAL")
        self._catalogue.execute("PRAGMA synchronous = FULL")
        self._catalogue.execute("PRAGMA foreign_keys = ON")
        if not new:
            _check_projection(self._catalogue, self._directory, self._projection)
            self._upgrade()
            return
        with _transaction(self._catalogue):
            for statement in SCHEMA.split(";"):
                self._catalogue.execute(statement)
            meta = {"revision": "0", "projection": self._projection.identity, "sizes": "{}"}
            self._catalogue.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
            self._catalogue.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._catalogue.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        durable.sync(self._directory)
        durable.sync(self._directory.parent)

    def _upgrade(self) -> None:
        """From format 1; payloads are immutable and stay as they are."""
        with _transaction(self._catalogue):
            if self._catalogue.execute("PRAGMA user_version").fetchone()[0] < FORMAT_VERSION:
                self._catalogue.execute(UPGRADE)
                self._catalogue.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _sweep(self) -> None:
        named = {name for (name,) in self._catalogue.execute("SELECT payload FROM rollout")}
        for path in self._payloads.iterdir():
            if path.name not in named and path.suffix in (".safetensors", ".tmp"):
                path.unlink()

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

    def _commit(
        self, rollout: Rollout, sizes: dict, recallable: np.ndarray, name: str, size: int, checksum: str
    ) -> int:
        embedding = np.ascontiguousarray(rollout.steps[0].policy_step.instruction_embedding, "<f4")
        explored = Counter(step.correction.exploration for step in rollout.steps if step.correction.exploration)
        with _transaction(self._catalogue):
            revision = self.revision + 1
            self._catalogue.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (str(revision),))
            self._catalogue.execute("UPDATE meta SET value = ? WHERE name = 'sizes'", (json.dumps(sizes),))
            self._catalogue.execute(
                "INSERT INTO rollout (id, robot, task, instruction, instruction_embedding, seed, outcome, length,"
                " decisions, recallable, start_ns, policy, revision, payload, payload_size, payload_checksum,"
                " explored) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    rollout.episode_id,
                    rollout.robot,
                    rollout.task,
                    rollout.instruction,
                    embedding.tobytes(),
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
                    bytes.fromhex(checksum),
                    json.dumps(explored),
                ),
            )
        return revision


class BankReader:
    """Reads a bank, also while a writer writes it and before there is one (then it is empty).

    projection: refuse a bank that was made with another. skip_corrupt: leave corrupt rollouts out of snapshots and name
    them there, where otherwise BankCorruptionError is raised. Every method raises BankFormatError for what is no bank,
    and BankProjectionError.
    """

    def __init__(
        self, directory: str | Path, *, projection: Projection | None = None, skip_corrupt: bool = False
    ) -> None:
        self._directory = Path(directory).absolute()
        self._projection, self._skip_corrupt = projection, skip_corrupt
        self._loaded: dict[str, StoredRollout | None] = {}  # by payload name; None is corrupt
        self._snapshot = Snapshot()
        self.rollouts()

    def rollouts(self) -> list[RolloutRecord]:
        """The catalogue, oldest first."""
        return [record for record, _ in self._catalogue()[2]]

    def snapshot(self) -> Snapshot:
        """All rollouts at the present revision; reads from disk only what no earlier snapshot has read.

        Raises BankCorruptionError, naming file and rollout, for a payload that is not what was written.
        """
        revision, projection, rows = self._catalogue(since=self._snapshot.revision)
        if revision == self._snapshot.revision:
            return self._snapshot
        loaded = {}
        for record, embedding in rows:
            if record.payload in self._loaded:
                loaded[record.payload] = self._loaded[record.payload]
            else:
                loaded[record.payload] = self._load(record, embedding)
        self._loaded = loaded
        self._snapshot = Snapshot(
            revision=revision,
            projection=projection,
            rollouts=tuple(rollout for rollout in loaded.values() if rollout is not None),
            skipped=tuple(record.id for record, _ in rows if loaded[record.payload] is None),
        )
        return self._snapshot

    def image(self, rollout_id: str, step: int, camera: str) -> np.ndarray:
        """What a camera saw at a decision, uint8 (height, width, 3) RGB, as JPEG has kept it.

        Raises KeyError, naming it, for a rollout, step or camera that the bank has not; BankCorruptionError.
        """
        for record, _ in self._catalogue()[2]:
            if record.id == rollout_id:
                break
        else:
            raise KeyError(f"rollout {rollout_id!r} is not in the bank {self._directory}")
        content = self._read(record)
        rows = np.flatnonzero(payload.decode(content).steps == step)
        if not len(rows):
            raise KeyError(f"step {step} is not in rollout {rollout_id!r}")
        try:
            return payload.decode_image(content, int(rows[0]), camera)
        except KeyError as error:
            raise KeyError(f"camera {camera!r} is not in rollout {rollout_id!r}") from error

    def _catalogue(self, since: int = -1) -> tuple[int, str, list[tuple[RolloutRecord, np.ndarray]]]:
        """Revision, projection and rows in one read transaction; no rows if the revision is still `since`."""
        path = self._directory / CATALOGUE
        if not path.exists():
            return 0, "", []
        with _readable(path), contextlib.closing(_connect(path, read_only=True)) as catalogue:
            catalogue.row_factory = sqlite3.Row
            with _transaction(catalogue, "BEGIN"):
                if _check_format(catalogue, self._directory):
                    return 0, "", []
                if self._projection is not None:
                    _check_projection(catalogue, self._directory, self._projection)
                meta = dict(catalogue.execute("SELECT name, value FROM meta"))
                rows = []
                if int(meta["revision"]) != since:
                    rows = [_record(row) for row in catalogue.execute("SELECT * FROM rollout ORDER BY serial")]
                return int(meta["revision"]), meta["projection"], rows

    def _load(self, record: RolloutRecord, embedding: np.ndarray) -> StoredRollout | None:
        try:
            arrays = payload.decode(self._read(record))
        except BankCorruptionError:
            if self._skip_corrupt:
                return None
            raise
        features = np.concatenate([unit(arrays.key.dequantise()), mean_latent(arrays.latent)], axis=1)
        return StoredRollout(record, embedding, arrays, features, self._directory / PAYLOADS / record.payload)

    def _read(self, record: RolloutRecord) -> bytes:
        path = self._directory / PAYLOADS / record.payload
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _corrupt(path, record.id, f"it cannot be read ({error})") from error
        if len(content) != record.payload_size:
            raise _corrupt(path, record.id, f"it has {len(content)} bytes, written were {record.payload_size}")
        if _checksum(content) != record.payload_checksum:
            raise _corrupt(path, record.id, "its checksum is not the one that was written")
        return content


def _record(row: sqlite3.Row) -> tuple[RolloutRecord, np.ndarray]:
    fields = {name: row[name] for name in row.keys() if name not in ("serial", "instruction_embedding")}
    fields["seed"] = int(fields["seed"])
    fields["outcome"] = Outcome(fields["outcome"])
    fields["payload_checksum"] = fields["payload_checksum"].hex()
    fields["explored"] = json.loads(fields.get("explored", "{}"))  # format 1 has none
    return RolloutRecord(**fields), np.frombuffer(row["instruction_embedding"], "<f4").astype(np.float32)


def _corrupt(path: Path, rollout_id: str, what: str) -> BankCorruptionError:
    return BankCorruptionError(f"payload {path} of rollout {rollout_id!r}: {what}; restore the file from a copy")


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _lock(directory: Path) -> int:
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


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"  # on a read-only medium SQLite cannot make the files that WAL needs
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def _transaction(catalogue: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE"):
    catalogue.execute(begin)
    try:
        yield
        catalogue.execute("COMMIT")
    except BaseException:
        if catalogue.in_transaction:
            catalogue.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _readable(path: Path):
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise BankFormatError(f"{path} cannot be read as a catalogue ({error}); name another bank") from error


def _check_format(catalogue: sqlite3.Connection, directory: Path) -> bool:
    """Whether the catalogue is still without its tables; raises BankFormatError if it is not one of ours."""
    application = catalogue.execute("PRAGMA application_id").fetchone()[0]
    version = catalogue.execute("PRAGMA user_version").fetchone()[0]
    tables = catalogue.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != APPLICATION_ID:
        raise BankFormatError(f"{directory / CATALOGUE} belongs to another program; name another directory")
    if version not in FORMAT_VERSIONS:
        raise BankFormatError(
            f"the bank {directory} has format {version}, this efn_ros knows {FORMAT_VERSIONS[0]} to {FORMAT_VERSION}; "
            "use the efn_ros that made it, or name another bank"
        )
    return False


def _check_projection(catalogue: sqlite3.Connection, directory: Path, projection: Projection) -> None:
    made_with = catalogue.execute("SELECT value FROM meta WHERE name = 'projection'").fetchone()[0]
    if made_with != projection.identity:
        raise BankProjectionError(
            f"the bank {directory} was made with projection {made_with}, not {projection.identity}; "
            "set that projection's sizes and seed, or name another bank"
        )


def _write_durably(directory: Path, name: str, content: bytes) -> None:
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
