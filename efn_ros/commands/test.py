"""Run the tests; words that are not listed here go to pytest.

Tests that need the official ROS 2 tools, or LIBERO's assets, look for them in the directory EFN_TEST_DATA
and skip, saying why, where they are not.
"""

import os
import sys
from pathlib import Path

PASSES_ON = True


def add_arguments(parser):
    """Declare --fast."""
    parser.add_argument("--fast", action="store_true", help="unit tests only: no ROS 2 processes, no rendering")


def run(args) -> int:
    """Become pytest, so that its summary and exit code are the last word."""
    root = Path(os.environ.get("EFN_ROOT") or ".")
    if not (root / "test").is_dir():
        print(f"efn test: no test/ in {root.resolve()}: run ./efn test in a checkout", file=sys.stderr)
        return 2
    os.chdir(root)
    fast = ["-m", "not integration and not simulator"] if args.fast else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *fast, *args.rest])
