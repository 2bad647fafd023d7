# SPDX-License-Identifier: MIT
"""Run the tests.

Unknown options and arguments are passed to pytest, which then runs once. Without them, the unit tests run in parallel,
then the integration tests, two graphs at a time, and last those that measure times, one after the other. Tests that
need the official ROS 2 tools or the assets of LIBERO search for them in the directory EFN_TEST_DATA; without them they
skip with a reason.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

PASSES_ON = True
UNIT, FAST = "not integration", "not integration and not simulator"
BESIDE, ALONE = "integration and not alone", "integration and alone"
MAX_WORKERS = 4  # each loads PyTorch
MAX_GRAPHS = 2  # at a time; each is several processes with deadlines
INTERRUPTED = 2  # pytest's exit code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--fast", action="store_true", help="unit tests only: no ROS 2 processes, no rendering")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is that of pytest in the first part that failed."""
    root = Path(os.environ.get("EFN_ROOT") or ".")
    if not (root / "test").is_dir():
        print(f"efn test: no test/ in {root.resolve()}: run ./efn test in a checkout", file=sys.stderr)
        return 2
    os.chdir(root)
    if args.rest:
        return pytest(*(["-m", FAST] if args.fast else []), *args.rest)
    cores = os.cpu_count() or 1
    failed = pytest("-n", str(min(cores, MAX_WORKERS)), "-m", FAST if args.fast else UNIT)
    if args.fast or failed == INTERRUPTED:
        return failed
    codes = [failed, pytest("-n", str(min(cores, MAX_GRAPHS)), "--dist", "loadfile", "-m", BESIDE)]
    if codes[-1] != INTERRUPTED:
        codes.append(pytest("-m", ALONE))
    if any(codes[:-1]):
        print("efn test: tests of an earlier part failed, see above", file=sys.stderr)
    return next(filter(None, codes), 0)


def pytest(*words: str) -> int:
    """Run pytest; return its exit code."""
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", "pytest", *words]) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # pytest is interrupted too, and reports its results so far
                return process.wait()
