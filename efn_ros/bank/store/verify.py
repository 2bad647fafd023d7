# SPDX-License-Identifier: MIT
"""Verification of a bank: every row of its catalogue and every byte of its payloads."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from efn_ros.bank.format.catalogue import (
    CATALOGUE,
    PAYLOADS,
    SELECT_ROWS,
    check_format,
    connect,
    create_tables,
    meta_checksum,
    read_meta,
    row_checksum,
    transaction,
    translate_read_errors,
)
from efn_ros.bank.format.codec import checksum

PRAGMAS = ("integrity_check", "foreign_key_check")
Progress = Callable[[list], Iterable]  # wraps a list that is iterated through, as tqdm does


@dataclass(frozen=True)
class Finding:
    """A part of a bank that is not as it was written."""

    where: str  # path of the file
    rollout: str  # identifier; empty if it concerns no single rollout
    what: str  # description


def verify(directory: str | Path, progress: Progress = iter) -> tuple[int, list[Finding]]:
    """Read every byte of a bank and compare it with its checksums.

    If the catalogue as a whole is damaged, no payload is read: `rebuild` it. A payload that no row names is no damage:
    a writer may be about to commit it, and the next writer sweeps it otherwise.

    Args:
        directory: Of the bank.
        progress: Wraps the list of rollouts.

    Returns:
        The number of rollouts in the catalogue, and what is damaged.

    Raises:
        BankFormatError: It is no bank, or one of another format.
    """
    directory = Path(directory).absolute()
    path = directory / CATALOGUE
    with translate_read_errors(path), contextlib.closing(connect(path, read_only=True)) as catalogue:
        catalogue.row_factory = sqlite3.Row
        check_format(catalogue, directory)
        with transaction(catalogue, "BEGIN"):
            found = [Finding(str(path), "", what) for what in _damage_of(catalogue)]
            if found:
                return 0, found
            rows = catalogue.execute(f"{SELECT_ROWS} ORDER BY serial").fetchall()
    for row in progress(rows):
        if row_checksum(row) != row["seal"]:
            found.append(Finding(str(path), str(row["id"]), "its row is not what was written"))
            continue
        file = directory / PAYLOADS / row["payload"]
        try:
            content = file.read_bytes()
        except OSError as error:
            # A missing file whose row is missing too was removed in the meantime.
            if not isinstance(error, FileNotFoundError) or _is_in_catalogue(path, row["payload"]):
                found.append(Finding(str(file), row["id"], f"it cannot be read ({error})"))
            continue
        if len(content) != row["payload_size"] or bytes.fromhex(checksum(content)) != row["payload_checksum"]:
            found.append(Finding(str(file), row["id"], "its checksum is not the one that was written"))
    return len(rows), found


def _is_in_catalogue(path: Path, payload_name: str) -> bool:
    with contextlib.closing(connect(path, read_only=True)) as catalogue:
        return catalogue.execute("SELECT 1 FROM rollout WHERE payload = ?", (payload_name,)).fetchone() is not None


def _damage_of(catalogue: sqlite3.Connection) -> list[str]:
    """Return what is damaged in a catalogue as a whole."""
    tables = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    with contextlib.closing(sqlite3.connect(":memory:")) as new:
        create_tables(new, "")
        expected = new.execute(tables).fetchall()
    try:
        if [tuple(row) for row in catalogue.execute(tables)] != expected:
            return ["its tables are not those of a bank"]
        results = [" ".join(map(str, row)) for p in PRAGMAS for row in catalogue.execute(f"PRAGMA {p}")]
        meta = read_meta(catalogue)
    except sqlite3.DatabaseError as error:
        return [str(error)]
    damage = [result for result in results if result != "ok"]
    if meta.get("seal") != meta_checksum(meta):
        damage.append("its description of the bank as a whole is not what was written")
    return damage
