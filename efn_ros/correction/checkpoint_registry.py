# SPDX-License-Identifier: MIT
"""Registry of the checkpoints that a robot learned at work: which one is in use, and every switch between them.

    <bank>/efn/checkpoints/000000/   the origin of learning: config.json, model.safetensors, report.json
    <bank>/efn/checkpoints/000001/   a candidate, with the report of its acceptance
    <bank>/efn/current.json          the checkpoint in use and the switch that chose it; this file decides
    <bank>/efn/switches.jsonl        every switch, one per line; follows current.json

A checkpoint is written under a hidden name and renamed, `current.json` is replaced, the log is appended to; each is
synced before the next. So after a kill at any moment the checkpoint in use is the one before or after the switch, and
the next writer repairs the log.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efn_ros import files

FOLDER, CHECKPOINTS, CURRENT, SWITCHES, REPORT, LOCK = (
    "efn", "checkpoints", "current.json", "switches.jsonl", "report.json", "lock",
)  # fmt: skip
FILES = ("config.json", "model.safetensors")  # of a checkpoint, as `Efn.save_pretrained` names them
OPERATOR, RULE, UNDO = "operator", "rule", "undo"
ORIGIN = 0
ACCEPTED_BEFORE = "proven"  # in reports before version 0.2
HIDDEN = "."  # prefix of the name of a checkpoint that is being written or removed


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the registry."""

    number: int  # never used twice
    path: Path  # its directory
    report: dict[str, Any]  # of the learner: at least `fingerprint`, `accepted` and `reason`

    @property
    def fingerprint(self) -> str:
        """Fingerprint of its files, when they were added."""
        return self.report["fingerprint"]

    @property
    def parent(self) -> int | None:
        """Number of the checkpoint against which it was accepted; None for the origin."""
        return self.report.get("parent", {}).get("number")


def fingerprint(checkpoint: str | Path) -> str:
    """Return the hash of the files of a checkpoint, in hexadecimal.

    Raises:
        FileNotFoundError: The directory has no checkpoint.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in FILES:
        content = (Path(checkpoint) / name).read_bytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


class Registry:
    """The checkpoints of one bank; any number of processes may read, and writers wait for each other.

    Attributes:
        directory: Of the registry, in that of the bank.
    """

    def __init__(self, bank: str | Path) -> None:
        """Open a registry, which may be empty.

        Args:
            bank: Directory of the bank.
        """
        self.directory = Path(bank).expanduser().absolute() / FOLDER

    def begin(self, checkpoint: str | Path) -> None:
        """Add the origin of learning as number 0 and use it, unless that is done.

        Raises:
            FileNotFoundError: The directory has no checkpoint.
            ValueError: The origin is another checkpoint.
        """
        for name in FILES:
            if not (Path(checkpoint) / name).is_file():
                raise FileNotFoundError(
                    f"no EFN checkpoint in {checkpoint}: {name} is missing; train one (./efn train) and name it as "
                    "checkpoint of efn_corrector"
                )
        with self._exclusive():
            if not self.checkpoints():
                self._add(
                    lambda to: [shutil.copyfile(Path(checkpoint) / name, to / name) for name in FILES],
                    {"accepted": True, "reason": "the origin of learning"},
                )
            origin = self.checkpoints()[0]
            self.check_origin(fingerprint(checkpoint))
            if not (self.directory / CURRENT).exists():
                self._use(origin, None)

    def check_origin(self, expected: str) -> None:
        """Check the fingerprint of the origin.

        Raises:
            ValueError: The origin has another fingerprint.
        """
        found = self.checkpoints()[0].fingerprint
        if found != expected:
            raise ValueError(
                f"{self.directory} began with checkpoint {found}, but checkpoint of efn_corrector is {expected}; set "
                "checkpoint to the first one again, or move the directory away to begin anew"
            )

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints by number."""
        found = []
        for path in sorted((self.directory / CHECKPOINTS).glob("[0-9]*")):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                report = json.loads((path / REPORT).read_bytes())
                report.setdefault("accepted", report.get(ACCEPTED_BEFORE))
                found.append(Checkpoint(int(path.name), path, report))
        return found

    def current(self) -> Checkpoint | None:
        """Return the checkpoint in use; None before learning began.

        Raises:
            ValueError: It is missing, or has changed since it was chosen.
        """
        chosen = self._current()
        if chosen is None:
            return None
        checkpoint = self._find(chosen["number"])
        if checkpoint.fingerprint != chosen["fingerprint"]:
            raise ValueError(
                f"checkpoint {checkpoint.number} in {self.directory} is {checkpoint.fingerprint}, but "
                f"{chosen['fingerprint']} was chosen; restore it, or switch to another one"
            )
        return checkpoint

    def offered(self) -> list[Checkpoint]:
        """Return the checkpoints that were accepted as better than the one in use."""
        current = self.current()
        return [c for c in self.checkpoints() if c.report["accepted"] and current and c.parent == current.number]

    def switches(self) -> list[dict[str, Any]]:
        """Return all switches, oldest first.

        Each has serial, when (UTC), from, to, fingerprint, who (operator, rule or undo) and why.
        """
        path, chosen = self.directory / SWITCHES, self._current()
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # a torn last line is dropped
        entries = [json.loads(line) for line in lines]
        if chosen and chosen["switch"] and len(entries) < chosen["switch"]["serial"]:
            entries.append(chosen["switch"])
        return entries

    def summary(self) -> dict[str, Any]:
        """Return a summary for JSON: the number in use, the numbers offered, and the acceptance of each checkpoint."""
        current, names = self.current(), ("number", "fingerprint", "accepted", "reason")
        return {
            "current": current.number if current else None,
            "offered": [c.number for c in self.offered()],
            "checkpoints": [{name: c.report[name] for name in names} for c in self.checkpoints()],
        }

    def add(self, fill: Callable[[Path], Any], report: dict[str, Any], *, keep: int) -> Checkpoint:
        """Add a candidate, and remove old ones that were never in use.

        Args:
            fill: Writes the files of the checkpoint into a directory.
            report: Of its acceptance.
            keep: Newest candidates to retain, of the accepted ones and of the rejected ones each.
        """
        with self._exclusive():
            added = self._add(fill, report)
            used = {ORIGIN, *(entry["to"] for entry in self.switches())}
            spare = [c for c in self.checkpoints() if c.number not in used]
            for accepted in (True, False):
                for checkpoint in [c for c in spare if c.report["accepted"] == accepted][:-keep]:
                    removed = checkpoint.path.with_name(HIDDEN + checkpoint.path.name)
                    checkpoint.path.rename(removed)
                    shutil.rmtree(removed)
            return added

    def switch(self, number: int, *, who: str = OPERATOR, why: str = "") -> Checkpoint:
        """Use another checkpoint, and log the switch.

        Args:
            number: Of the checkpoint.
            who: Who switches: OPERATOR, RULE or UNDO.
            why: Reason, for the log.

        Raises:
            ValueError: The checkpoint does not exist, is in use already, was rejected, has changed, or was accepted
                against another one than is in use (unless it was in use before).
        """
        with self._exclusive():
            current, chosen = self._in_use(), self._find(number)
            known = {ORIGIN, *(entry["to"] for entry in self.switches())}
            if number == current:
                raise ValueError(f"checkpoint {number} is in use already")
            if not chosen.report["accepted"]:
                raise ValueError(
                    f"checkpoint {number} was rejected: {chosen.report['reason']}; switch to an accepted one"
                )
            if number not in known and chosen.parent != current:
                raise ValueError(
                    f"checkpoint {number} was accepted against {chosen.parent}, but {current} is in use; switch to "
                    f"{chosen.parent} first, or to one that was accepted against {current}"
                )
            return self._switch(current, chosen, who, why)

    def undo(self, *, why: str = "") -> Checkpoint:
        """Undo the last switch that is not undone yet, and log it.

        Args:
            why: Reason, for the log.

        Raises:
            ValueError: There is no such switch.
        """
        with self._exclusive():
            history = [ORIGIN]
            for entry in self.switches():
                if entry["who"] == UNDO:
                    history.pop()
                else:
                    history.append(entry["to"])
            if len(history) < 2:
                raise ValueError(f"no switch in {self.directory} is left to undo: {ORIGIN}, the origin, is in use")
            return self._switch(self._in_use(), self._find(history[-2]), UNDO, why)

    def _switch(self, current: int, chosen: Checkpoint, who: str, why: str) -> Checkpoint:
        found = fingerprint(chosen.path)
        if found != chosen.fingerprint:
            raise ValueError(f"checkpoint {chosen.number} is {found} on disk, but {chosen.fingerprint} was accepted")
        entry = {
            "serial": len(self.switches()) + 1,
            "when": now(),
            "from": current,
            "to": chosen.number,
            "fingerprint": found,
            "who": who,
            "why": why,
        }
        self._use(chosen, entry)
        self._log(entry)
        return chosen

    def _add(self, fill: Callable[[Path], Any], report: dict[str, Any]) -> Checkpoint:
        directory = self.directory / CHECKPOINTS
        directory.mkdir(exist_ok=True)
        number = max((c.number for c in self.checkpoints()), default=ORIGIN - 1) + 1
        made, final = directory / f"{HIDDEN}{number:06d}", directory / f"{number:06d}"
        made.mkdir()
        fill(made)
        report = {"number": number, "fingerprint": fingerprint(made), **report}
        (made / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        for path in (*made.iterdir(), made):
            files.sync(path)
        made.rename(final)
        files.sync(directory)
        return Checkpoint(number, final, report)

    def _use(self, checkpoint: Checkpoint, entry: dict[str, Any] | None) -> None:
        chosen = {"number": checkpoint.number, "fingerprint": checkpoint.fingerprint, "switch": entry}
        files.write(self.directory / CURRENT, json.dumps(chosen, indent=1).encode() + b"\n")

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.directory / SWITCHES).open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        files.sync(self.directory)

    def _current(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.directory / CURRENT).read_bytes())
        except FileNotFoundError:
            return None

    def _in_use(self) -> int:
        """The number of the checkpoint in use, even of a damaged one, because a switch must be able to replace it."""
        chosen = self._current()
        if chosen is None:
            raise ValueError(f"{self.directory} has no checkpoint yet; set learn: true to let the graph learn")
        return chosen["number"]

    def _find(self, number: int) -> Checkpoint:
        checkpoints = {c.number: c for c in self.checkpoints()}
        if number not in checkpoints:
            raise ValueError(f"{self.directory} has no checkpoint {number}; choose one of {sorted(checkpoints)}")
        return checkpoints[number]

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Lock the registry for one writer, then clean up after a killed writer and complete the log."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for path in (self.directory / CHECKPOINTS).glob(f"{HIDDEN}*"):
                shutil.rmtree(path)
            log = self.directory / SWITCHES
            written = log.read_bytes() if log.exists() else b""
            whole = written.rfind(b"\n") + 1
            if whole < len(written):
                os.truncate(log, whole)
            for entry in self.switches()[written.count(b"\n") :]:
                self._log(entry)
            yield


def now() -> str:
    """Return the present time, UTC, in ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
