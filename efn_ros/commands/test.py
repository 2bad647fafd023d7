"""Run the tests; words that are not listed here go to pytest, which then runs once.

Without such words unit tests share the cores, and graphs of processes, which must be on time, follow one by one.
Tests that need the official ROS 2 tools, or LIBERO's assets, look for them in the directory EFN_TEST_DATA
and skip, saying why, where they are not.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

PASSES_ON = True
UNIT, FAST, GRAPHS = "not integration", "not integration and not simulator", "integration"
MOST_WORKERS = 4  # each loads PyTorch
INTERRUPTED = 2  # pytest's exit code


def add_arguments(parser):
    """Declare --fast."""
    parser.add_argument("--fast", action="store_true", help="unit tests only: no ROS 2 processes, no rendering")


def run(args) -> int:
    """The exit code of pytest; that of the unit tests where they failed."""
    root = Path(os.environ.get("EFN_ROOT") or ".")
    if not (root / "test").is_dir():
        print(f"efn test: no test/ in {root.resolve()}: run ./efn test in a checkout", file=sys.stderr)
        return 2
    os.chdir(root)
    if args.rest:
        return pytest(*(["-m", FAST] if args.fast else []), *args.rest)
    failed = pytest("-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "-m", FAST if args.fast else UNIT)
    if args.fast or failed == INTERRUPTED:
        return failed
    code = pytest("-m", GRAPHS)
    if failed:
        print("efn test: unit tests failed, see above", file=sys.stderr)
    return failed or code


def pytest(*words: str) -> int:
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", "pytest", *words]) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # reaches pytest too, which says how far it came
                return process.wait()
