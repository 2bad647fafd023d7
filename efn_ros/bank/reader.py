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
    ROWS,
    RolloutRecord,
    check_format,
    check_projection,
    connect,
    read_meta,
    readable,
    record_of,
    seal,
    transaction,
)
from efn_ros.bank.chance import Followed
from efn_ros.bank.contents import Contents
from efn_ros.bank.errors import BankCorruptionError
from efn_ros.bank.payload import PayloadFile, StepArrays, Steps, checksum
from efn_ros.bank.sketches import Projection
from efn_ros.types import Outcome, Quantised

CACHE_BYTES = 256 * 2**20
READERS = 16  # threads, which wait for the disk
T = TypeVar("T")


class StepsCache:
    """What recall has read of rollouts, those longest unused dropped beyond so many bytes.

    skip_corrupt: what is corrupt is None and stays so until its file changes; else the error is raised. An error of the
    disk is no corruption: it is raised as it is, and nothing is concluded from it.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, *, skip_corrupt: bool = False) -> None:
        self._limit_bytes, self.skip_corrupt, self._bytes = limit_bytes, skip_corrupt, 0
        self._steps: OrderedDict[Path, tuple[Steps, payload.Index]] = OrderedDict()
        self._corrupt: dict[Path, tuple[str, str, tuple]] = {}
        self._mutex = threading.Lock()

    def load(self, rollouts: Sequence[StoredRollout], *, lost: bool = False) -> list[tuple[Steps, PayloadFile] | None]:
        """Of each its payload, opened, and what recall compares of it; None for a corrupt one that is skipped.

        lost: count a file that is not there as corrupt; else FileNotFoundError is raised, for it may have been
        forgotten. What has to be read is read side by side: a disk answers many requests sooner than one by one.
        """

        def one(rollout: StoredRollout) -> tuple[Steps, PayloadFile] | None:
            if rollout.path in self._corrupt:
                return None
            return self.tolerate(rollout, lambda: self._read(rollout), lost=lost)

        with self._mutex:
            unread = sum(rollout.path not in self._steps for rollout in rollouts)
        if unread > 1:
            with ThreadPoolExecutor(READERS) as pool:
                return list(pool.map(one, rollouts))
        return [one(rollout) for rollout in rollouts]

    def tolerate(self, rollout: StoredRollout, read: Callable[[], T], *, lost: bool = True) -> T | None:
        """What `read` reads. Raises BankCorruptionError, unless such are skipped, and OSError."""
        try:
            try:
                return read()
            except FileNotFoundError as error:
                if not lost:
                    raise
                raise rollout.corrupt(f"it is not there ({error})") from error
        except BankCorruptionError as error:
            if not self.skip_corrupt:
                raise
            self.brand(rollout, error)
            return None

    def brand(self, rollout: StoredRollout, error: BankCorruptionError) -> None:
        """Skip a rollout from now on."""
        with self._mutex:
            self._corrupt[rollout.path] = rollout.record.id, str(error), _signature(rollout.path)
        self.drop(rollout)

    def drop(self, *rollouts: StoredRollout) -> None:
        """What was read of them."""
        with self._mutex:
            for rollout in rollouts:
                if (known := self._steps.pop(rollout.path, None)) is not None:
                    self._bytes -= known[0].nbytes

    def corrupt(self, paths: set[Path] | None = None) -> dict[Path, tuple[str, str]]:
        """Identifier and error of what is skipped, by path: of these, where they are named, and unchanged since."""
        with self._mutex:
            for path, (_, _, signature) in list(self._corrupt.items()):
                if (paths is not None and path not in paths) or _signature(path) != signature:
                    del self._corrupt[path]
            return {path: told[:2] for path, told in self._corrupt.items()}

    def _read(self, rollout: StoredRollout) -> tuple[Steps, PayloadFile]:
        with self._mutex:
            known = self._steps.get(rollout.path)
            if known is not None:
                self._steps.move_to_end(rollout.path)
        file = PayloadFile(rollout.path, known[1] if known else None)
        if known is not None:
            return known[0], file
        try:
            steps, index = file.steps(), file.index()
        except ValueError as error:
            raise rollout.corrupt(error) from error
        with self._mutex:
            self._bytes += steps.nbytes if rollout.path not in self._steps else 0
            self._steps[rollout.path] = steps, index
            while self._bytes > self._limit_bytes and len(self._steps) > 1:
                self._bytes -= self._steps.popitem(last=False)[1][0].nbytes
        return steps, file


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
        """What recall compares and returns; None where it is corrupt and the reader skips that. Raises
        BankCorruptionError and OSError."""
        loaded = self.cache.load([self], lost=True)[0]
        return loaded[0] if loaded else None

    @cached_property
    def arrays(self) -> StepArrays:
        """All decisions; kept. Raises BankCorruptionError for a payload that is not what was written."""
        return payload.decode(self.content())

    def content(self) -> bytes:
        """The whole payload. Raises BankCorruptionError, naming file and rollout, if it is not what was written, and
        OSError."""
        record = self.record
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise self.corrupt(f"it is not there ({error})") from error
        if len(content) != record.payload_size:
            raise self.corrupt(f"it has {len(content)} bytes, written were {record.payload_size}")
        if checksum(content) != record.payload_checksum:
            raise self.corrupt("its checksum is not the one that was written")
        return content

    def cameras(self) -> list[str]:
        """Names of the cameras whose images it keeps. Raises BankCorruptionError."""
        return json.loads(payload.unpack(self.content())[1]["cameras"])

    def sketches(self, *rows: int) -> list[Quantised]:
        """Visual tokens of some decisions, each q int8 (T, d), scale float32 (T,). Raises BankCorruptionError."""
        try:
            return PayloadFile(self.path).sketches(rows)
        except (FileNotFoundError, ValueError) as error:
            raise self.corrupt(f"sketches {rows} cannot be read ({error})") from error

    def followed(self) -> Followed | None:
        """The decisions in which memory was followed; None where there are none. Raises BankCorruptionError, and
        FileNotFoundError for a rollout that has been forgotten."""
        try:
            sources, confidence = PayloadFile(self.path).followed()
        except ValueError as error:
            raise self.corrupt(error) from error
        success = self.record.outcome == Outcome.SUCCESS
        return Followed(self.record.instruction, sources, confidence, success) if sources else None

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
        self._projection = projection
        self._cache = StepsCache(cache_bytes, skip_corrupt=skip_corrupt)
        self._reset()
        self._refresh()

    @property
    def corrupt(self) -> dict[str, str]:
        """What was found corrupt and is skipped: identifier of the rollout -> what is wrong with it."""
        return self._unsealed | dict(self._cache.corrupt().values())

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
        if not self._cache.corrupt():
            return replace(whole, skipped=tuple(self._unsealed)) if self._unsealed else whole
        corrupt = self._cache.corrupt({rollout.path for rollout in whole.rollouts})
        kept = np.array([rollout.path not in corrupt for rollout in whole.rollouts], bool)
        skipped = tuple(r.record.id for r, good in zip(whole.rollouts, kept, strict=True) if not good)
        return replace(whole.only(kept), skipped=(*self._unsealed, *skipped))

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

    def _reset(self, identity: str = "", projection: str = "") -> None:
        self._identity, self._mark = identity, []
        self._embeddings: dict[int, np.ndarray] = {}
        self._unsealed: dict[str, str] = {}
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
        snapshot, serials, unsealed = self._snapshot, self._serials, dict(self._unsealed)
        gone = catalogue.execute("SELECT serial, id FROM forgotten WHERE revision > ?", (since,)).fetchall()
        forgotten: list[StoredRollout] = []
        if gone:
            kept = ~np.isin(serials, [serial for serial, _ in gone])
            forgotten = [snapshot.rollouts[i] for i in np.flatnonzero(~kept)]
            snapshot, serials = snapshot.only(kept), serials[kept]
            for _, id_ in gone:
                unsealed.pop(id_, None)
        rollouts, added, payloads = [], [], self._directory / PAYLOADS
        for row in catalogue.execute(f"{ROWS} WHERE revision > ? ORDER BY serial", (since,)):
            if seal(row) != row["seal"]:
                what = (
                    f"the catalogue's row of rollout {row['id']!r} in {self._directory} is not what was written; make "
                    "the catalogue anew with ./efn bank rebuild"
                )
                if not self._cache.skip_corrupt:
                    raise BankCorruptionError(what)
                unsealed[str(row["id"])] = what
                continue
            if (instruction := row["instruction"]) not in self._embeddings:
                self._embeddings[instruction] = np.frombuffer(row["embedding"], "<f4").astype(np.float32)
            record = record_of(row)
            path, embedding = payloads / record.payload, self._embeddings[instruction]
            rollouts.append(StoredRollout(record, instruction, embedding, path, self._cache))
            added.append(row["serial"])
        snapshot, mark = snapshot.extended(rollouts, revision), _mark(catalogue, revision)
        self._snapshot, self._mark, self._unsealed = snapshot, mark, unsealed
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


def _signature(path: Path) -> tuple:
    """Changes with the file; empty where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
