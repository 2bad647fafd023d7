# SPDX-License-Identifier: MIT
"""Watch a running graph: rate, age and size of each topic, the last corrected action, the state of each node."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time

from efn_ros.commands._watch import Watch
from efn_ros.ros import discovery

PERIOD_S = 1.0  # from one table to the next
ONCE_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--namespace", default="efn", help="of the graph; '/': every topic")
    parser.add_argument("--once", action="store_true", help=f"print one table, after --seconds (default {ONCE_S:g})")
    parser.add_argument("--seconds", type=float, help="end after this time (default: with Ctrl-C)")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if there is no topic."""
    seconds = args.seconds if args.seconds is not None else ONCE_S if args.once else float("inf")
    discovery.configure()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    in_place = sys.stdout.isatty() and not args.once
    with Watch(args.namespace) as watch:
        try:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                watch.spin(min(seconds if args.once else PERIOD_S, left))
                show(watch.lines(time.time()), in_place)
        except KeyboardInterrupt:
            return 0
        except BrokenPipeError:  # of `efn topics | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return 0 if watch.streams else 1


def show(lines: list[str], in_place: bool) -> None:
    """Print lines, in place of the previous ones on a terminal."""
    if in_place:
        width = shutil.get_terminal_size().columns
        print("\x1b[H" + "".join(f"{line[:width]}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)
    else:
        print("\n".join(lines) + "\n", flush=True)
