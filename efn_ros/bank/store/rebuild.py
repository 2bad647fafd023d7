# SPDX-License-Identifier: MIT
"""Rebuilding of a lost or damaged catalogue from the payloads."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from safetensors import SafetensorError

from efn_ros import files
from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import CATALOGUE, PAYLOADS, connect, create_tables, insert, lock, transaction
from efn_ros.bank.format.errors import BankFormatError
from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.store.verify import Finding, Progress


def rebuild(directory: str | Path, progress: Progress = iter) -> tuple[int, list[Finding]]:
    """Make a new catalogue from the payloads of a bank.

    The old catalogue stays beside it as `catalogue.sqlite.broken-1`, or the next number. Rollouts are ordered by when
    they began, and revisions start again. The next writer sets damaged payloads aside in `orphaned/`. A crash leaves
    the bank as it was, or without a catalogue: then rebuild it again.

    Args:
        directory: Of the bank.
        progress: Wraps the list of payloads.

    Returns:
        The number of rollouts in the new catalogue, and the damaged payloads, which are left out.

    Raises:
        BankLockedError: A writer has the bank open.
        BankFormatError: There is no intact payload of this format, or they have more than one projection.
        OSError: The disk refused; that is no damage.
    """
    directory = Path(directory).absolute()
    if not (directory / PAYLOADS).is_dir():
        raise BankFormatError(f"there is no bank in {directory}: it contains no {PAYLOADS}")
    rows, found, projections, sizes = {}, [], set(), None
    with lock(directory):
        for path in progress(sorted((directory / PAYLOADS).glob("*.safetensors"))):
            try:
                PayloadFile(path).check()
                content = path.read_bytes()
                row, sizes = codec.catalogue_row(content), codec.payload_sizes(content)
                projection = codec.unpack(content)[1]["projection"]
            except (ValueError, KeyError, TypeError, SafetensorError) as error:
                found.append(Finding(str(path), "", str(error)))
                continue
            if row["id"] in rows:
                found.append(Finding(str(path), str(row["id"]), "another payload contains this rollout too"))
                continue
            projections.add(projection)
            rows[row["id"]] = row
        if len(projections) != 1:
            raise BankFormatError(
                f"intact payloads in {directory / PAYLOADS} have {len(projections)} projections, a bank has one: "
                f"{sorted(projections)}"
            )
        number = 1 + sum(1 for _ in directory.glob(f"{CATALOGUE}.broken-*[0-9]"))
        path, new, broken = (directory / f"{CATALOGUE}{end}" for end in ("", ".new", f".broken-{number}"))
        new.unlink(missing_ok=True)
        with contextlib.closing(connect(new)) as catalogue, transaction(catalogue):
            create_tables(catalogue, projections.pop(), revision=len(rows), sizes=sizes)
            for revision, row in enumerate(sorted(rows.values(), key=lambda row: (row["start_ns"], row["id"])), 1):
                insert(catalogue, row | {"revision": revision})
        files.sync(new)
        for end in ("", "-wal", "-shm"):  # the catalogue first: without one no writer opens the bank
            if (old := path.with_name(path.name + end)).exists():
                os.replace(old, broken.with_name(broken.name + end))
                files.sync(directory)
        files.replace(new, path)
    return len(rows), found
