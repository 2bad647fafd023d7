# SPDX-License-Identifier: MIT
"""Cleaning of a bank's directory after a writer was killed."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from efn_ros.bank.format.catalogue import ORPHANED, PAYLOADS


def sweep(catalogue: sqlite3.Connection, directory: Path) -> None:
    """Delete incomplete files and payloads of removed rollouts, and set orphaned payloads aside.

    An orphaned payload is one that the catalogue does not name. It may be the one append that was not committed, or all
    that is left after a catalogue was replaced, so it is moved to `orphaned/` and never deleted.
    """
    names = {name for (name,) in catalogue.execute("SELECT payload FROM rollout")}
    removed = {name for (name,) in catalogue.execute("SELECT payload FROM forgotten")}
    for path in (directory / PAYLOADS).iterdir():
        if path.suffix == ".tmp" or (path.name in removed and path.name not in names):
            path.unlink()
        elif path.suffix == ".safetensors" and path.name not in names:
            (directory / ORPHANED).mkdir(exist_ok=True)
            os.replace(path, directory / ORPHANED / path.name)
