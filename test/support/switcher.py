"""A process that adds candidates, switches and undoes until it is killed; it says what has been acknowledged."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from efn_ros.correction.registry import FILES, Registry


def fill(content: str):
    """Stands for `save_pretrained`: a registry does not look into what it keeps."""

    def write(directory: Path) -> None:
        for name in FILES:
            (directory / name).write_text(f"{name} {content}")

    return write


def report(registry: Registry, accepted: bool = True, reason: str = "as the test says") -> dict:
    current = registry.current()
    parent = {"number": current.number, "fingerprint": current.fingerprint}
    return {"accepted": accepted, "reason": reason, "parent": parent}


def go_on(bank: str) -> None:
    registry = Registry(bank)
    for turn in itertools.count():
        added = registry.add(fill(f"turn {turn}"), report(registry, accepted=turn % 3 > 0), kept=2)
        if added.report["accepted"]:
            print("begun", flush=True)
            registry.switch(added.number, why=f"turn {turn}")
            print(f"used {added.number}", flush=True)
        if turn % 4 == 3:
            print("begun", flush=True)
            print(f"used {registry.undo().number}", flush=True)


if __name__ == "__main__":
    go_on(sys.argv[1])
