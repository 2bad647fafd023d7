"""Checkpoints that come with the package, named by the world that they were trained in."""

from __future__ import annotations

from pathlib import Path

NAME, WORLD = "packaged", "metaworld"  # what is meant where no world is named


def checkpoint_directory(named: str | Path, packaged: Path) -> Path:
    """The directory of a checkpoint: "packaged:<world>" is one of those in `packaged`; "packaged", or nothing, is that
    of Meta-World; anything else is a path.

    Raises FileNotFoundError for a world that none in the package is of.
    """
    name, _, world = str(named).partition(":")
    if name not in ("", NAME):
        return Path(named).expanduser()
    directory = packaged / (world or WORLD)
    if not directory.is_dir():
        there = ", ".join(f"{NAME}:{path.name}" for path in sorted(packaged.iterdir()) if path.is_dir())
        raise FileNotFoundError(
            f"no checkpoint {named!r} comes with the package; there are {there}, or name a directory"
        )
    return directory
