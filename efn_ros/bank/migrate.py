"""A bank of an earlier format, made one of this format in place."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from efn_ros import durable
from efn_ros.bank import payload
from efn_ros.bank.catalogue import (
    APPLICATION_ID,
    CATALOGUE,
    PAYLOADS,
    SCHEMA,
    connect,
    insert,
    lock,
    readable,
    seal_meta,
    transaction,
)
from efn_ros.bank.errors import BankCorruptionError, BankFormatError
from efn_ros.bank.payload import FORMAT_VERSION, checksum
from efn_ros.bank.writer import sweep
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
    BankFormatError for what cannot be migrated, and, unless `skip_corrupt`, BankCorruptionError.
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
    rows, corrupt = [], []
    for row in progress(catalogue.execute("SELECT * FROM rollout ORDER BY serial").fetchall()):
        path = directory / PAYLOADS / row["payload"]
        try:
            content = path.read_bytes()
            if checksum(content) != row["payload_checksum"].hex():
                raise ValueError("its checksum is not the one that was written")
        except (OSError, ValueError) as error:
            if not skip_corrupt:
                raise BankCorruptionError(
                    f"payload {path} of rollout {row['id']!r}: {error}; restore the file from a copy, or leave the "
                    "rollout behind with --skip-corrupt"
                ) from error
            corrupt.append(row["id"])
            continue
        content = payload.pack(*of_this_format(content))
        name = payload.name_of(checksum(content))
        durable.create(directory / PAYLOADS, name, content)
        rows.append((row, name, len(content), bytes.fromhex(checksum(content))))
    with transaction(catalogue):
        catalogue.execute("ALTER TABLE rollout RENAME TO old")
        catalogue.execute("ALTER TABLE meta RENAME TO old_meta")
        for statement in SCHEMA.split(";"):
            catalogue.execute(statement)
        catalogue.execute("INSERT INTO meta SELECT * FROM old_meta")
        catalogue.execute("INSERT INTO meta VALUES ('identity', ?)", (secrets.token_hex(8),))
        for row, *stored in rows:
            told = {"text": row["instruction"], "embedding": row["instruction_embedding"]}
            payloads = dict(zip(("payload", "payload_size", "payload_checksum"), stored, strict=True))
            insert(catalogue, {"explored": "{}", **dict(row), **told, **payloads})
        seal_meta(catalogue)
        catalogue.execute("DROP TABLE old")
        catalogue.execute("DROP TABLE old_meta")
        catalogue.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    sweep(catalogue, directory)
    return len(rows), corrupt


def of_this_format(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a payload of an earlier format, for `payload.pack`.

    Format 1 knew neither shadow nor exploration: what was added is what was proposed, sources are not known.
    """
    tensors, metadata = payload.unpack(content)
    if "proposed" not in tensors:
        count = len(tensors["steps"])
        proposes = tensors["modes"] == Mode.CORRECTED
        tensors |= {"proposed": tensors["residual"], "proposes": proposes.astype(np.uint8)}
        tensors |= {"cut": np.zeros(count, np.uint8), "source_step": np.full(count, -1, np.int32)}
        tensors |= {name: np.zeros(count, np.int32) for name in ("explored", "source")}
        metadata |= {name: json.dumps([""]) for name in ("explored", "source")}
    return tensors, metadata
