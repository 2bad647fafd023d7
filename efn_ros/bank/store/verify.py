"""Whether a bank is what was written: every row of its catalogue and every byte of its payloads."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from efn_ros.bank.format.catalogue import (
    CATALOGUE,
    PAYLOADS,
    ROWS,
    check_format,
    connect,
    make,
    meta_checksum,
    read_meta,
    readable,
    row_checksum,
    transaction,
)
from efn_ros.bank.format.codec import checksum

PRAGMAS = ("integrity_check", "foreign_key_check")


Progress = Callable[[list], Iterable]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written. where: a file. rollout: its identifier; empty for none in particular."""

    where: str
    rollout: str
    what: str


def verify(directory: str | Path, progress: Progress = iter) -> tuple[int, list[Finding]]:
    """How many rollouts the catalogue names, and all that is wrong; reads every byte.

    progress: what the rollouts are iterated through. Where the catalogue as a whole is damaged, nothing else is read:
    `rebuild` it. A payload that no row names is no fault: a writer may be about to
    commit it, and sweeps it if it was killed. Raises BankFormatError for what is no bank, or one of another format.
    """
    directory = Path(directory).absolute()
    path = directory / CATALOGUE
    with readable(path), contextlib.closing(connect(path, read_only=True)) as catalogue:
        catalogue.row_factory = sqlite3.Row
        check_format(catalogue, directory)
        with transaction(catalogue, "BEGIN"):
            found = [Finding(str(path), "", what) for what in _of_catalogue(catalogue)]
            if found:
                return 0, found
            rows = catalogue.execute(f"{ROWS} ORDER BY serial").fetchall()
    for row in progress(rows):
        if row_checksum(row) != row["seal"]:
            found.append(Finding(str(path), str(row["id"]), "its row is not what was written"))
            continue
        file = directory / PAYLOADS / row["payload"]
        try:
            content = file.read_bytes()
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or _named(path, row["payload"]):  # else forgotten meanwhile
                found.append(Finding(str(file), row["id"], f"it cannot be read ({error})"))
            continue
        if len(content) != row["payload_size"] or bytes.fromhex(checksum(content)) != row["payload_checksum"]:
            found.append(Finding(str(file), row["id"], "its checksum is not the one that was written"))
    return len(rows), found


def _named(path: Path, payload_name: str) -> bool:
    with contextlib.closing(connect(path, read_only=True)) as catalogue:
        return catalogue.execute("SELECT 1 FROM rollout WHERE payload = ?", (payload_name,)).fetchone() is not None


def _of_catalogue(catalogue: sqlite3.Connection) -> list[str]:
    """What is wrong with it as a whole."""
    tables = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    with contextlib.closing(sqlite3.connect(":memory:")) as new:
        make(new, "")
        wanted = new.execute(tables).fetchall()
    try:
        if [tuple(row) for row in catalogue.execute(tables)] != wanted:
            return ["its tables are not those of a bank"]
        said = [" ".join(map(str, row)) for p in PRAGMAS for row in catalogue.execute(f"PRAGMA {p}")]
        meta = read_meta(catalogue)
    except sqlite3.DatabaseError as error:
        return [str(error)]
    wrong = [what for what in said if what != "ok"]
    if meta.get("seal") != meta_checksum(meta):
        wrong.append("what it says of the bank as a whole is not what was written")
    return wrong
