# SPDX-License-Identifier: MIT
"""Files that survive a crash of the machine, as far as fsync guarantees it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Replace a file atomically; it is durable on return."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    replace(temporary, path)


def replace(temporary: Path, path: Path) -> None:
    """Move a complete file over another one of the same directory, atomically; durable on return."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(directory: Path, name: str, content: bytes) -> None:
    """Create a file; it is durable on return, and absent after an error.

    Raises:
        OSError: The disk refused.
    """
    temporary, final = directory / f"{name}.tmp", directory / name
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, final)
        sync(directory)
    except OSError:
        for path in (temporary, final):
            with contextlib.suppress(OSError):
                path.unlink()
        raise
