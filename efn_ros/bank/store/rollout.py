# SPDX-License-Identifier: MIT
"""A stored rollout, whose payload is read on demand, and the cache of what retrieval has read."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import RolloutRecord
from efn_ros.bank.format.codec import checksum
from efn_ros.bank.format.errors import BankCorruptionError
from efn_ros.bank.format.payload_file import Index, PayloadFile
from efn_ros.bank.format.steps import FollowedEpisode, StepArrays, Steps
from efn_ros.types import Outcome, Quantised

CACHE_BYTES = 256 * 2**20
READERS = 16  # threads, which wait for the disk
T = TypeVar("T")


class StepsCache:
    """Cache of what retrieval has read of rollouts; drops the least recently used beyond its size.

    Attributes:
        skip_corrupt: Return None for a corrupt rollout, until its file changes, instead of raising. An error of the
            disk is no corruption and is always raised.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, *, skip_corrupt: bool = False) -> None:
        self._limit_bytes, self.skip_corrupt, self._bytes = limit_bytes, skip_corrupt, 0
        self._steps: OrderedDict[Path, tuple[Steps, Index]] = OrderedDict()
        self._corrupt: dict[Path, tuple[str, str, tuple]] = {}  # rollout, error message and signature of the file
        self._mutex = threading.Lock()

    def load(
        self, rollouts: Sequence[StoredRollout], *, missing_is_corrupt: bool = False
    ) -> list[tuple[Steps, PayloadFile] | None]:
        """Read what retrieval compares of rollouts, and open their payloads.

        Payloads are read in parallel, as a disk serves many requests faster than one after the other.

        Args:
            rollouts: Whose payloads are read.
            missing_is_corrupt: Count a missing file as corrupt; otherwise it may have been removed.

        Returns:
            One entry for each rollout; None for a corrupt one that is skipped.

        Raises:
            FileNotFoundError: A file is missing, and that is not counted as corrupt.
        """

        def one(rollout: StoredRollout) -> tuple[Steps, PayloadFile] | None:
            if rollout.path in self._corrupt:
                return None
            return self.read_or_skip(rollout, lambda: self._read(rollout), missing_is_corrupt=missing_is_corrupt)

        with self._mutex:
            unread = sum(rollout.path not in self._steps for rollout in rollouts)
        if unread > 1:
            with ThreadPoolExecutor(READERS) as pool:
                return list(pool.map(one, rollouts))
        return [one(rollout) for rollout in rollouts]

    def read_or_skip(
        self, rollout: StoredRollout, read: Callable[[], T], *, missing_is_corrupt: bool = False
    ) -> T | None:
        """Return what `read` reads of a rollout; None if it is corrupt and such are skipped.

        Raises:
            BankCorruptionError: It is corrupt, and such are not skipped.
            OSError: The disk refused.
        """
        try:
            try:
                return read()
            except FileNotFoundError as error:
                if not missing_is_corrupt:
                    raise
                raise rollout.corruption_error(f"the file is missing ({error})") from error
        except BankCorruptionError as error:
            if not self.skip_corrupt:
                raise
            self.mark_corrupt(rollout, error)
            return None

    def mark_corrupt(self, rollout: StoredRollout, error: BankCorruptionError) -> None:
        """Skip a rollout from now on."""
        with self._mutex:
            self._corrupt[rollout.path] = rollout.record.id, str(error), _signature(rollout.path)
        self.drop(rollout)

    def drop(self, *rollouts: StoredRollout) -> None:
        """Drop what was read of rollouts."""
        with self._mutex:
            for rollout in rollouts:
                if (known := self._steps.pop(rollout.path, None)) is not None:
                    self._bytes -= known[0].nbytes

    def corrupt(self, paths: set[Path] | None = None) -> dict[Path, tuple[str, str]]:
        """Return identifier and error message of skipped rollouts whose files have not changed since, by path.

        Entries outside of `paths` are dropped; None keeps all.
        """
        with self._mutex:
            for path, (_, _, signature) in list(self._corrupt.items()):
                if (paths is not None and path not in paths) or _signature(path) != signature:
                    del self._corrupt[path]
            return {path: entry[:2] for path, entry in self._corrupt.items()}

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
            raise rollout.corruption_error(error) from error
        with self._mutex:
            self._bytes += steps.nbytes if rollout.path not in self._steps else 0
            self._steps[rollout.path] = steps, index
            while self._bytes > self._limit_bytes and len(self._steps) > 1:
                self._bytes -= self._steps.popitem(last=False)[1][0].nbytes
        return steps, file


@dataclass(frozen=True, eq=False)
class StoredRollout:
    """A rollout of a bank; its payload is read on demand.

    Methods that read it raise BankCorruptionError, naming file and rollout, for a payload that is missing or not what
    was written, and OSError.
    """

    record: RolloutRecord  # its row in the catalogue
    instruction_id: int  # of the instruction in the catalogue
    instruction_embedding: np.ndarray  # (E,), the same array for the same `instruction_id`
    path: Path  # of its payload
    cache: StepsCache  # of its reader

    @property
    def steps(self) -> Steps | None:
        """Data that retrieval compares and returns; None if it is corrupt and the reader skips such."""
        loaded = self.cache.load([self], missing_is_corrupt=True)[0]
        return loaded[0] if loaded else None

    @cached_property
    def arrays(self) -> StepArrays:
        """All decisions, cached."""
        return codec.decode(self.content())

    def content(self) -> bytes:
        """Read the whole payload and compare it with its checksum."""
        record = self.record
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise self.corruption_error(f"the file is missing ({error})") from error
        if len(content) != record.payload_size:
            raise self.corruption_error(f"it has {len(content)} bytes, but {record.payload_size} were written")
        if checksum(content) != record.payload_checksum:
            raise self.corruption_error("its checksum is not the one that was written")
        return content

    def cameras(self) -> list[str]:
        """Return the names of the cameras whose images it stores."""
        return json.loads(codec.unpack(self.content())[1]["cameras"])

    def sketches(self, *rows: int) -> list[Quantised]:
        """Return the visual tokens of some decisions, each q int8 (T, d), scale float32 (T,)."""
        try:
            return PayloadFile(self.path).sketches(rows)
        except (FileNotFoundError, ValueError) as error:
            raise self.corruption_error(f"sketches {rows} cannot be read ({error})") from error

    def followed(self) -> FollowedEpisode | None:
        """Return the decisions that executed a correction by memory; None if there are none.

        Raises:
            FileNotFoundError: The rollout has been removed.
        """
        try:
            sources, confidence = PayloadFile(self.path).followed()
        except ValueError as error:
            raise self.corruption_error(error) from error
        success = self.record.outcome == Outcome.SUCCESS
        return FollowedEpisode(self.record.instruction, sources, confidence, success) if sources else None

    def corruption_error(self, what: object) -> BankCorruptionError:
        """Return the error that names its payload."""
        return BankCorruptionError(
            f"payload {self.path} of rollout {self.record.id!r}: {what}; restore the file from a copy"
        )


def _signature(path: Path) -> tuple:
    """Return a value that changes with the file; empty if it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
