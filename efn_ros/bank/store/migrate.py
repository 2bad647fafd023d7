"""A bank of an earlier format, made one of this format in place."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from efn_ros import files
from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import (
    APPLICATION_ID,
    CATALOGUE,
    PAYLOADS,
    connect,
    insert,
    lock,
    make,
    read_meta,
    readable,
    transaction,
)
from efn_ros.bank.format.codec import FORMAT_VERSION, checksum
from efn_ros.bank.format.errors import BankCorruptionError, BankFormatError
from efn_ros.bank.store.writer import file_row, sweep
from efn_ros.types import Mode

OLD = (1, 2)  # formats that are understood


def migrate(
    directory: str | Path,
    *,
    skip_corrupt: bool = False,
    progress: Callable[[list[sqlite3.Row]], Iterable[sqlite3.Row]] = iter,
) -> tuple[int, list[str]]:
    """How many rollouts were brought over, and the identifiers of those that were corrupt and left behind.

    A crash leaves the bank as it was or as it shall be: new payloads come first, then one transaction. progress: what
    the rows of the catalogue are iterated through. A bank of this format stays as it is. Raises BankLockedError,
    BankFormatError for what cannot be migrated, OSError, and, unless `skip_corrupt`, BankCorruptionError. What is left
    behind is set aside in `orphaned/`.
    """
    directory = Path(directory).absolute()
    if not (directory / CATALOGUE).exists():
        raise BankFormatError(f"there is no bank in {directory}: it holds no {CATALOGUE}")
    held = lock(directory)
    try:
        with contextlib.closing(connect(directory / CATALOGUE)) as catalogue, readable(directory / CATALOGUE):
            catalogue.row_factory = sqlite3.Row
            application = catalogue.execute("PRAGMA application_id").fetchone()[0]
            version = catalogue.execute("PRAGMA user_version").fetchone()[0]
            if application == APPLICATION_ID and version == FORMAT_VERSION:
                return 0, []
            if application != APPLICATION_ID or version not in OLD:
                raise BankFormatError(f"{directory} is no bank of format {OLD[0]} to {OLD[-1]}; it cannot be migrated")
            catalogue.execute("PRAGMA synchronous = FULL")
            return _migrate(catalogue, directory, skip_corrupt, progress)
    finally:
        os.close(held)


def _migrate(catalogue, directory: Path, skip_corrupt: bool, progress) -> tuple[int, list[str]]:
    projection = read_meta(catalogue)["projection"]
    rows, corrupt, old = [], [], []
    for row in progress(catalogue.execute("SELECT * FROM rollout ORDER BY serial").fetchall()):
        path = directory / PAYLOADS / row["payload"]
        try:
            content = path.read_bytes()
            if checksum(content) != row["payload_checksum"].hex():
                raise ValueError("its checksum is not the one that was written")
        except (FileNotFoundError, ValueError) as error:
            if not skip_corrupt:
                raise BankCorruptionError(
                    f"payload {path} of rollout {row['id']!r}: {error}; restore the file from a copy, or leave the "
                    "rollout behind with --skip-corrupt"
                ) from error
            corrupt.append(row["id"])
            continue
        content = of_this_format(content, row, projection)
        old.append(row["payload"])
        rows.append(file_row(content) | {"serial": row["serial"], "revision": row["revision"]})
        files.create(directory / PAYLOADS, rows[-1]["payload"], content)
    with transaction(catalogue):
        meta = read_meta(catalogue)
        for table in ("rollout", "meta"):
            catalogue.execute(f"DROP TABLE {table}")
        make(catalogue, projection, revision=int(meta["revision"]), sizes=json.loads(meta["sizes"]))
        for row in rows:
            insert(catalogue, row)
    for name in old:
        (directory / PAYLOADS / name).unlink(missing_ok=True)
    sweep(catalogue, directory)
    return len(rows), corrupt


def of_this_format(content: bytes, row: sqlite3.Row, projection: str) -> bytes:
    """A payload of an earlier format, made one of this; what it lacks is in the catalogue's row.

    Format 1 knew neither shadow nor exploration: what was added is what was proposed, sources are not known.
    """
    tensors, metadata = codec.unpack(content)
    if "proposed" not in tensors:
        count = len(tensors["steps"])
        proposes = tensors["modes"] == Mode.CORRECTED
        tensors |= {"proposed": tensors["residual"], "proposes": proposes.astype(np.uint8)}
        tensors |= {"cut": np.zeros(count, np.uint8), "source_step": np.full(count, -1, np.int32)}
        tensors |= {name: np.zeros(count, np.int32) for name in ("explored", "source")}
        metadata |= {name: json.dumps([""]) for name in ("explored", "source")}
    kept = {name: metadata[name] for name in ("cameras", "explored", "source")} | {"projection": projection}
    embedding = np.frombuffer(row["instruction_embedding"], "<f4")
    return codec.pack(tensors, kept | codec.told(dict(row) | {"rollout": row["id"]}, embedding))
