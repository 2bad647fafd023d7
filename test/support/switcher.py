# SPDX-License-Identifier: MIT
"""A process that adds candidates, switches and undoes until it is killed, and prints what has been acknowledged."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from efn_ros.correction.checkpoint_registry import FILES, Registry


def fill(content: str):
    """Return a function in place of `save_pretrained`: a registry does not read the files of a candidate."""

    def write(directory: Path) -> None:
        for name in FILES:
            (directory / name).write_text(f"{name} {content}")

    return write


def report(registry: Registry, accepted: bool = True, reason: str = "of the test") -> dict:
    """Return the report of a candidate."""
    current = registry.current()
    parent = {"number": current.number, "fingerprint": current.fingerprint}
    return {"accepted": accepted, "reason": reason, "parent": parent}


def switch_until_killed(bank: str) -> None:
    """Add, switch and undo without end."""
    registry = Registry(bank)
    for turn in itertools.count():
        added = registry.add(fill(f"turn {turn}"), report(registry, accepted=turn % 3 > 0), keep=2)
        if added.report["accepted"]:
            print("begun", flush=True)
            registry.switch(added.number, why=f"turn {turn}")
            print(f"used {added.number}", flush=True)
        if turn % 4 == 3:
            print("begun", flush=True)
            print(f"used {registry.undo().number}", flush=True)


if __name__ == "__main__":
    switch_until_killed(sys.argv[1])
