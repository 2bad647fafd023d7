"""The checkpoints that were learnt at work, which of them is in use, and every switch between them; beside the bank.

    <bank>/efn/checkpoints/000000/   what learning began with: config.json, model.safetensors, report.json
    <bank>/efn/checkpoints/000001/   a candidate, with the report of its acceptance
    <bank>/efn/current.json          the one in use and the switch that chose it: the truth
    <bank>/efn/switches.jsonl        every switch, one a line; it follows current.json

A checkpoint is filled beside and renamed, `current.json` is replaced, the log is appended to; each is synced before the
next. So a kill at any moment leaves the one in use as it was or as it was to be, and the next writer mends the log.
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
HIDDEN = "."  # begins the name of what is half made or half removed


@dataclass(frozen=True)
class Checkpoint:
    """report: what `learner.Learner` says of it; at least `fingerprint`, `accepted` and `reason`."""

    number: int
    path: Path
    report: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.report["fingerprint"]


def fingerprint(checkpoint: str | Path) -> str:
    """Of the contents of a checkpoint, in hexadecimal. Raises FileNotFoundError where it is none."""
    digest = hashlib.blake2b(digest_size=8)
    for name in FILES:
        content = (Path(checkpoint) / name).read_bytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


class Registry:
    """Of one bank; any number of processes may read, writers wait for each other."""

    def __init__(self, bank: str | Path) -> None:
        self.directory = Path(bank).expanduser().absolute() / FOLDER

    def begin(self, checkpoint: str | Path) -> None:
        """Make what learning begins with number 0 and use it; does nothing where that has happened.

        Raises FileNotFoundError where there is no checkpoint, ValueError where learning began with another one.
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
                    {"accepted": True, "reason": "what learning began with"},
                )
            origin = self.checkpoints()[0]
            self.check_origin(fingerprint(checkpoint))
            if not (self.directory / CURRENT).exists():
                self._use(origin, None)

    def check_origin(self, expected: str) -> None:
        """Raises ValueError where learning did not begin with the checkpoint of this fingerprint."""
        found = self.checkpoints()[0].fingerprint
        if found != expected:
            raise ValueError(
                f"{self.directory} began with checkpoint {found}, but checkpoint of efn_corrector is {expected}; name "
                "that one again, or move the directory away to begin anew"
            )

    def checkpoints(self) -> list[Checkpoint]:
        """By number, which is never used twice."""
        found = []
        for path in sorted((self.directory / CHECKPOINTS).glob("[0-9]*")):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                report = json.loads((path / REPORT).read_bytes())
                report.setdefault("accepted", report.get(ACCEPTED_BEFORE))
                found.append(Checkpoint(int(path.name), path, report))
        return found

    def current(self) -> Checkpoint | None:
        """The one in use; None before learning began. Raises ValueError where it is gone or not what was chosen."""
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
        """What was accepted to be better than the one in use."""
        current = self.current()
        return [c for c in self.checkpoints() if c.report["accepted"] and current and _parent(c) == current.number]

    def switches(self) -> list[dict[str, Any]]:
        """Oldest first: serial, when (UTC), from, to, fingerprint, who (operator, rule or undo), why."""
        path, chosen = self.directory / SWITCHES, self._current()
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # what follows the last line is torn
        entries = [json.loads(line) for line in lines]
        if chosen and chosen["switch"] and len(entries) < chosen["switch"]["serial"]:
            entries.append(chosen["switch"])
        return entries

    def summary(self) -> dict[str, Any]:
        """In short, ready for JSON: number in use, numbers offered, and of each candidate what was accepted."""
        current, names = self.current(), ("number", "fingerprint", "accepted", "reason")
        return {
            "current": current.number if current else None,
            "offered": [c.number for c in self.offered()],
            "checkpoints": [{name: c.report[name] for name in names} for c in self.checkpoints()],
        }

    def add(self, fill: Callable[[Path], Any], report: dict[str, Any], *, kept: int) -> Checkpoint:
        """A new candidate; `fill` writes its files into the directory that it is given.

        Of those that never were in use the newest `kept` stay that were accepted, and as many that were not.
        """
        with self._exclusive():
            added = self._add(fill, report)
            used = {ORIGIN, *(entry["to"] for entry in self.switches())}
            spare = [c for c in self.checkpoints() if c.number not in used]
            for accepted in (True, False):
                for checkpoint in [c for c in spare if c.report["accepted"] == accepted][:-kept]:
                    removed = checkpoint.path.with_name(HIDDEN + checkpoint.path.name)
                    checkpoint.path.rename(removed)
                    shutil.rmtree(removed)
            return added

    def switch(self, number: int, *, who: str = OPERATOR, why: str = "") -> Checkpoint:
        """Use another checkpoint, and log it.

        Raises ValueError for one that is not there, in use already, not accepted, altered since, or accepted against
        another one than is in use (but for one that has been in use before).
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
            if number not in known and _parent(chosen) != current:
                raise ValueError(
                    f"checkpoint {number} was accepted against {_parent(chosen)}, but {current} is in use; switch to "
                    f"{_parent(chosen)} first, or to one that was accepted against {current}"
                )
            return self._switch(current, chosen, who, why)

    def undo(self, *, why: str = "") -> Checkpoint:
        """Take the last switch back that was not taken back yet, and log it. Raises ValueError where there is none."""
        with self._exclusive():
            history = [ORIGIN]
            for entry in self.switches():
                if entry["who"] == UNDO:
                    history.pop()
                else:
                    history.append(entry["to"])
            if len(history) < 2:
                raise ValueError(f"no switch in {self.directory} is left to undo: {ORIGIN} is what learning began with")
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
        """Its number, even where it is damaged: one must be able to switch away from it."""
        chosen = self._current()
        if chosen is None:
            raise ValueError(f"there is nothing in {self.directory} yet; set learn: true to let the graph learn")
        return chosen["number"]

    def _find(self, number: int) -> Checkpoint:
        checkpoints = {c.number: c for c in self.checkpoints()}
        if number not in checkpoints:
            raise ValueError(f"there is no checkpoint {number} in {self.directory}; there are {sorted(checkpoints)}")
        return checkpoints[number]

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One writer at a time, after what an earlier one left half done is swept and the log is whole."""
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
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _parent(checkpoint: Checkpoint) -> int | None:
    return checkpoint.report.get("parent", {}).get("number")
