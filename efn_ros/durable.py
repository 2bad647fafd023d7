"""Files that survive a crash of the machine, as far as fsync can promise."""

from __future__ import annotations

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
