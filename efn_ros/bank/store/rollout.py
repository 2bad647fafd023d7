"""A stored rollout, whose payload is read when it is asked for, and the cache of what recall has read."""

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
    """What recall has read of rollouts, those longest unused dropped beyond so many bytes.

    skip_corrupt: what is corrupt is None and stays so until its file changes; else the error is raised. An error of the
    disk is no corruption: it is raised as it is, and nothing is concluded from it.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, *, skip_corrupt: bool = False) -> None:
        self._limit_bytes, self.skip_corrupt, self._bytes = limit_bytes, skip_corrupt, 0
        self._steps: OrderedDict[Path, tuple[Steps, Index]] = OrderedDict()
        self._corrupt: dict[Path, tuple[str, str, tuple]] = {}
        self._mutex = threading.Lock()

    def load(
        self, rollouts: Sequence[StoredRollout], *, missing_is_corrupt: bool = False
    ) -> list[tuple[Steps, PayloadFile] | None]:
        """Read what recall compares of rollouts, and open their payloads.

        What has to be read is read side by side: a disk answers many requests sooner than one by one.

        Args:
            rollouts: Whose payloads are read.
            missing_is_corrupt: Count a missing file as corrupt; else it may have been forgotten.

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
        """Return what `read` reads of a rollout; None where it is corrupt and such are skipped.

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
                raise rollout.corrupt(f"it is not there ({error})") from error
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
        loaded = self.cache.load([self], missing_is_corrupt=True)[0]
        return loaded[0] if loaded else None

    @cached_property
    def arrays(self) -> StepArrays:
        """All decisions; kept. Raises BankCorruptionError for a payload that is not what was written."""
        return codec.decode(self.content())

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
        return json.loads(codec.unpack(self.content())[1]["cameras"])

    def sketches(self, *rows: int) -> list[Quantised]:
        """Visual tokens of some decisions, each q int8 (T, d), scale float32 (T,). Raises BankCorruptionError."""
        try:
            return PayloadFile(self.path).sketches(rows)
        except (FileNotFoundError, ValueError) as error:
            raise self.corrupt(f"sketches {rows} cannot be read ({error})") from error

    def followed(self) -> FollowedEpisode | None:
        """The decisions in which memory was followed; None where there are none. Raises BankCorruptionError, and
        FileNotFoundError for a rollout that has been forgotten."""
        try:
            sources, confidence = PayloadFile(self.path).followed()
        except ValueError as error:
            raise self.corrupt(error) from error
        success = self.record.outcome == Outcome.SUCCESS
        return FollowedEpisode(self.record.instruction, sources, confidence, success) if sources else None

    def corrupt(self, what: object) -> BankCorruptionError:
        """The error that names its payload."""
        return BankCorruptionError(
            f"payload {self.path} of rollout {self.record.id!r}: {what}; restore the file from a copy"
        )


def _signature(path: Path) -> tuple:
    """Changes with the file; empty where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
