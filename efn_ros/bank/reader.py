"""Out of the bank: what it holds at one revision, read when it is asked for and never taken for granted."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from efn_ros.bank import payload
from efn_ros.bank.catalogue import (
    CATALOGUE,
    PAYLOADS,
    RolloutRecord,
    check_format,
    check_projection,
    connect,
    readable,
    record_of,
    transaction,
)
from efn_ros.bank.contents import Contents
from efn_ros.bank.errors import BankCorruptionError
from efn_ros.bank.payload import PayloadFile, StepArrays, Steps, checksum
from efn_ros.bank.sketches import Projection
from efn_ros.types import Quantised

CACHE_BYTES = 256 * 2**20
READERS = 16  # threads, which wait for the disk
T = TypeVar("T")


class StepsCache:
    """What recall has read of rollouts, those longest unused dropped beyond so many bytes.

    skip_corrupt: a rollout that cannot be read is None and its error is kept in `corrupt`, by the rollout's identifier;
    else the error is raised.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, *, skip_corrupt: bool = False) -> None:
        self._limit_bytes, self._skip_corrupt, self._bytes = limit_bytes, skip_corrupt, 0
        self._steps: OrderedDict[Path, tuple[Steps, payload.Index]] = OrderedDict()
        self._mutex = threading.Lock()
        self.corrupt: dict[str, str] = {}

    def steps(self, rollout: StoredRollout) -> Steps | None:
        with self._mutex:
            if (known := self._steps.get(rollout.path)) is not None:
                self._steps.move_to_end(rollout.path)
                return known[0]
        if (read := self.tolerate(rollout, lambda: _read(rollout.open()))) is None:
            return None
        with self._mutex:
            self._bytes += read[0].nbytes if rollout.path not in self._steps else 0
            self._steps[rollout.path] = read
            while self._bytes > self._limit_bytes and len(self._steps) > 1:
                self._bytes -= self._steps.popitem(last=False)[1][0].nbytes
        return read[0]

    def index(self, rollout: StoredRollout) -> payload.Index | None:
        """Of its payload, if that has been read."""
        with self._mutex:
            return self._steps.get(rollout.path, (None, None))[1]

    def load(self, rollouts: Sequence[StoredRollout]) -> list[Steps | None]:
        """Of each; what has to be read is read side by side, as a disk answers many requests sooner than one by one."""
        with self._mutex:
            missing = [rollout for rollout in rollouts if rollout.path not in self._steps]
        if len(missing) > 1:
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(self.steps, missing))
        return [self.steps(rollout) for rollout in rollouts]

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

    def cameras(self) -> list[str]:
        """Names of the cameras whose images it keeps. Raises BankCorruptionError."""
        return json.loads(payload.unpack(self.content())[1]["cameras"])

    def open(self) -> PayloadFile:
        """Its payload, to read in parts. Raises OSError."""
        return PayloadFile(self.path, self.cache.index(self))

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
                if check_format(catalogue, self._directory):
                    return self._snapshot
                if self._projection is not None:
                    check_projection(catalogue, self._directory, self._projection)
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
                record := record_of(row),
                row["instruction"],
                self._embeddings[row["instruction"]],
                payloads / record.payload,
                self._cache,
            )
            for row in rows
        ]
        self._serials = np.concatenate([self._serials, np.array([row["serial"] for row in rows], np.int64)])
        self._snapshot = snapshot.extended(rollouts, revision)


def _read(file: PayloadFile) -> tuple[Steps, payload.Index]:
    return file.steps(), file.index()
