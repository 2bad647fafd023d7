"""Where the files are that come with the package: configuration, and checkpoints by the world they were trained in."""

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


def config_directory() -> Path:
    """Where the robots' files are: of the installed package, else of the checkout."""
    checkout = Path(__file__).resolve().parents[1] / "config"
    if checkout.is_dir():
        return checkout
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("efn_ros")) / "config"
