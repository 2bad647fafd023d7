# SPDX-License-Identifier: MIT
"""Paths of the files that come with the package: configuration, and checkpoints by the world they were trained in."""

from __future__ import annotations

from pathlib import Path

PREFIX, DEFAULT_WORLD = "packaged", "metaworld"


def checkpoint_directory(name: str | Path, packaged: Path) -> Path:
    """Return the directory of a checkpoint.

    Args:
        name: "packaged:<world>" is a checkpoint of the package; "packaged" or "" is the one of `DEFAULT_WORLD`; any
            other name is a path.
        packaged: Directory of the packaged checkpoints.

    Raises:
        FileNotFoundError: The package has no checkpoint of that world.
    """
    prefix, _, world = str(name).partition(":")
    if prefix not in ("", PREFIX):
        return Path(name).expanduser()
    directory = packaged / (world or DEFAULT_WORLD)
    if not directory.is_dir():
        known = ", ".join(f"{PREFIX}:{path.name}" for path in sorted(packaged.iterdir()) if path.is_dir())
        raise FileNotFoundError(
            f"the package has no checkpoint {name!r}; choose one of {known}, or give the path of a directory"
        )
    return directory


def config_directory() -> Path:
    """Return the directory of the robots' configuration: of the checkout, or else of the installed package."""
    checkout = Path(__file__).resolve().parents[1] / "config"
    if checkout.is_dir():
        return checkout
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("efn_ros")) / "config"
