"""A new catalogue out of the payloads, for a bank whose own is lost or damaged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from safetensors import SafetensorError

from efn_ros import files
from efn_ros.bank.format import codec
from efn_ros.bank.format.catalogue import (
    CATALOGUE,
    PAYLOADS,
    connect,
    insert,
    lock,
    make,
    transaction,
)
from efn_ros.bank.format.errors import BankFormatError
from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.store.verify import Finding, Progress
from efn_ros.bank.store.writer import file_row


def rebuild(directory: str | Path, progress: Progress = iter) -> tuple[int, list[Finding]]:
    """A new catalogue out of the payloads, for a bank whose own is lost or damaged: how many rollouts are in it, and
    what was left out because it is damaged.

    The old catalogue stays beside it as `catalogue.sqlite.broken-1`, or the next number. Rollouts come in the order in
    which they began, and revisions begin anew; what was left out the next writer sets aside in `orphaned/`. A crash
    leaves the bank as it was, or without a catalogue: then rebuild it again. Raises BankLockedError, OSError, which is
    no damage, and BankFormatError where no payload of this format is left, or of more than one projection.
    """
    directory = Path(directory).absolute()
    if not (directory / PAYLOADS).is_dir():
        raise BankFormatError(f"there is no bank in {directory}: it holds no {PAYLOADS}")
    whole, found, projections = {}, [], set()
    held = lock(directory)
    try:
        for path in progress(sorted((directory / PAYLOADS).glob("*.safetensors"))):
            try:
                PayloadFile(path).check()
                content = path.read_bytes()
                row, sizes = file_row(content), codec.sizes_in(content)
                projection = codec.unpack(content)[1]["projection"]
            except (ValueError, KeyError, TypeError, SafetensorError) as error:
                found.append(Finding(str(path), "", str(error)))
                continue
            if row["id"] in whole:
                found.append(Finding(str(path), row["id"], "another payload holds this rollout too"))
                continue
            projections.add(projection)
            whole[row["id"]] = row
        if len(projections) != 1:
            raise BankFormatError(
                f"whole payloads in {directory / PAYLOADS} are of {len(projections)} projections, a bank is of one: "
                f"{sorted(projections)}"
            )
        number = 1 + sum(1 for _ in directory.glob(f"{CATALOGUE}.broken-*[0-9]"))
        path, new, broken = (directory / f"{CATALOGUE}{end}" for end in ("", ".new", f".broken-{number}"))
        new.unlink(missing_ok=True)
        with contextlib.closing(connect(new)) as catalogue, transaction(catalogue):
            make(catalogue, projections.pop(), revision=len(whole), sizes=sizes)
            for revision, row in enumerate(sorted(whole.values(), key=lambda row: (row["start_ns"], row["id"])), 1):
                insert(catalogue, row | {"revision": revision})
        files.sync(new)
        for end in ("", "-wal", "-shm"):  # the catalogue first: without one no writer opens the bank
            if (old := path.with_name(path.name + end)).exists():
                os.replace(old, broken.with_name(broken.name + end))
                files.sync(directory)
        files.replace(new, path)
    finally:
        os.close(held)
    return len(whole), found
