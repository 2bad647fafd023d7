# SPDX-License-Identifier: MIT
"""Migration of a bank of an earlier format to the present one, in place."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import numpy as np

from efn_ros import files
from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import (
    APPLICATION_ID,
    CATALOGUE,
    PAYLOADS,
    connect,
    create_tables,
    insert,
    lock,
    read_meta,
    transaction,
    translate_read_errors,
)
from efn_ros.bank.format.codec import FORMAT_VERSION, checksum
from efn_ros.bank.format.errors import BankCorruptionError, BankFormatError
from efn_ros.bank.store.sweep import sweep
from efn_ros.bank.store.verify import Progress
from efn_ros.types import Mode

OLD_FORMATS = (1, 2)


def migrate(directory: str | Path, *, skip_corrupt: bool = False, progress: Progress = iter) -> tuple[int, list[str]]:
    """Convert a bank; one of the present format stays as it is.

    New payloads are written first, then one transaction replaces the catalogue, so a crash leaves the bank in the old
    or in the new format. Payloads that are left out are set aside in `orphaned/`.

    Args:
        directory: Of the bank.
        skip_corrupt: Leave out corrupt rollouts instead of raising.
        progress: Wraps the list of the catalogue's rows.

    Returns:
        The number of converted rollouts, and the identifiers of corrupt ones that were left out.

    Raises:
        BankLockedError: A writer has the bank open.
        BankFormatError: The bank cannot be migrated.
        BankCorruptionError: A payload is corrupt, unless `skip_corrupt`.
        OSError: The disk refused.
    """
    directory = Path(directory).absolute()
    path = directory / CATALOGUE
    if not path.exists():
        raise BankFormatError(f"there is no bank in {directory}: it contains no {CATALOGUE}")
    with lock(directory), contextlib.closing(connect(path)) as catalogue, translate_read_errors(path):
        catalogue.row_factory = sqlite3.Row
        application = catalogue.execute("PRAGMA application_id").fetchone()[0]
        version = catalogue.execute("PRAGMA user_version").fetchone()[0]
        if application == APPLICATION_ID and version == FORMAT_VERSION:
            return 0, []
        if application != APPLICATION_ID or version not in OLD_FORMATS:
            first, last = OLD_FORMATS[0], OLD_FORMATS[-1]
            raise BankFormatError(f"{directory} is no bank of format {first} to {last}; it cannot be migrated")
        catalogue.execute("PRAGMA synchronous = FULL")
        return _migrate(catalogue, directory, skip_corrupt, progress)


def _migrate(
    catalogue: sqlite3.Connection, directory: Path, skip_corrupt: bool, progress: Progress
) -> tuple[int, list[str]]:
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
                    "rollout out with --skip-corrupt"
                ) from error
            corrupt.append(row["id"])
            continue
        content = convert_payload(content, row, projection)
        old.append(row["payload"])
        new = codec.catalogue_row(content)
        rows.append(new | {"serial": row["serial"], "revision": row["revision"]})
        files.create(directory / PAYLOADS, str(new["payload"]), content)
    with transaction(catalogue):
        meta = read_meta(catalogue)
        for table in ("rollout", "meta"):
            catalogue.execute(f"DROP TABLE {table}")
        create_tables(catalogue, projection, revision=int(meta["revision"]), sizes=json.loads(meta["sizes"]))
        for row in rows:
            insert(catalogue, row)
    for name in old:
        (directory / PAYLOADS / name).unlink(missing_ok=True)
    sweep(catalogue, directory)
    return len(rows), corrupt


def convert_payload(content: bytes, row: sqlite3.Row, projection: str) -> bytes:
    """Convert a payload of an earlier format; what it lacks comes from the catalogue's row.

    Format 1 had neither shadow mode nor exploration: the added residual is what was proposed, and sources are unknown.
    """
    tensors, metadata = codec.unpack(content)
    if "proposed" not in tensors:
        count = len(tensors["steps"])
        proposes = tensors["modes"] == Mode.CORRECTED
        tensors |= {"proposed": tensors["residual"], "proposes": proposes.astype(np.uint8)}
        tensors |= {"cut": np.zeros(count, np.uint8), "source_step": np.full(count, -1, np.int32)}
        tensors |= {name: np.zeros(count, np.int32) for name in ("explored", "source")}
        metadata |= {name: json.dumps([""]) for name in ("explored", "source")}
    retained = {name: metadata[name] for name in ("cameras", "explored", "source")} | {"projection": projection}
    embedding = np.frombuffer(row["instruction_embedding"], "<f4")
    return codec.pack(tensors, retained | codec.rollout_metadata(dict(row) | {"rollout": row["id"]}, embedding))
