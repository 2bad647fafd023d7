"""Files that survive a crash of the machine, as far as fsync can promise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole; on return it is safe."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    replace(temporary, path)


def replace(temporary: Path, path: Path) -> None:
    """Put a finished file in the place of another of the same directory, at once or not at all."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync of a file or of a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(directory: Path, name: str, content: bytes) -> None:
    """Make a new file; on return it is safe, and after an error it is not there. Raises OSError."""
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
