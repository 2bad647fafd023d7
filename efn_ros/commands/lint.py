# SPDX-License-Identifier: MIT
"""Check style, spelling, imports, types and generated pages of a checkout, as continuous integration does.

Types are checked against the libraries that are installed; the ratchet is that of Python 3.11 and newer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

RATCHET = "pyright-ratchet.json"  # room -> type errors that it may have; a room that is not in it may have none
TOOLS = {
    "ruff": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "codespell": ("codespell",),
    "imports": ("lint-imports", "--no-cache"),
    "pages": ("python", "-m", "efn_ros.commands.main", "docs", "--check"),
}
CHECKS = (*TOOLS, "types")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--only", choices=CHECKS, action="append", help="this check alone; may be given several times")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        1 if a check failed, 2 outside a checkout, else 0.
    """
    root = Path(os.environ.get("EFN_ROOT") or ".").resolve()
    if not (root / RATCHET).is_file():
        print(f"efn lint: no {RATCHET} in {root}: run it in a checkout", file=sys.stderr)
        return 2
    failed = []
    for name in args.only or CHECKS:
        code = check_types(root) if name == "types" else run_tool(TOOLS[name], root)
        print(f"{'FAIL' if code else 'OK  '} {name}", flush=True)
        failed += [name] if code else []
    return 1 if failed else 0


def run_tool(words: tuple[str, ...], root: Path) -> int:
    """Run a program of this environment in the checkout; print its output where it fails, and return its exit code."""
    done = subprocess.run(
        [Path(sys.executable).with_name(words[0]), *words[1:]],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout, end="")
    return done.returncode


def check_types(root: Path) -> int:
    """Run pyright and compare the errors of each room with the ratchet; return 1 where they differ."""
    words = [Path(sys.executable).with_name("pyright"), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["generalDiagnostics"]
    except ValueError:
        print(f"efn lint: pyright did not run: {done.stdout}{done.stderr}", file=sys.stderr)
        return 1
    errors = [error for error in found if error["severity"] == "error"]
    return compare(errors, json.loads((root / RATCHET).read_text()), root)


def compare(errors: list[dict], allowed: Mapping[str, int], root: Path) -> int:
    """Compare pyright's errors with those allowed; print what differs and return 1, or return 0.

    Args:
        errors: Of pyright's JSON output.
        allowed: Room, such as "efn_ros/worlds", to the number of errors that it has.
        root: Of the checkout.
    """
    rooms = [room_of(Path(error["file"]).relative_to(root)) for error in errors]
    counts = Counter(rooms)
    for room in sorted(counts.keys() | allowed.keys()):
        count, most = counts[room], allowed.get(room, 0)
        if count > most:
            for error in (error for error, place in zip(errors, rooms, strict=True) if place == room):
                line = error["range"]["start"]["line"] + 1
                print(f"{error['file']}:{line}: {error['message'].splitlines()[0]} ({error.get('rule', 'syntax')})")
            print(f"{room}: {count} type errors, {most} are allowed")
        elif count < most:
            print(f"{room}: only {count} type errors are left: write that into {RATCHET}")
    return int(any(counts[room] != allowed.get(room, 0) for room in counts.keys() | allowed.keys()))


def room_of(path: Path) -> str:
    """Return the room of a file, relative to the checkout: "efn_ros/bank", "efn_ros/types.py", "bench"."""
    return "/".join(path.parts[:2]) if path.parts[0] == "efn_ros" else path.parts[0]
