# SPDX-License-Identifier: MIT
"""Options that had other names before version 0.2; the old ones are read for one version, with a warning."""

from __future__ import annotations

import argparse
import sys
from typing import Any


class _Renamed(argparse.Action):
    def __init__(self, *args: Any, now: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._now = now

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(f"{parser.prog}: {option_string} is now {self._now}; version 0.3 removes the old name", file=sys.stderr)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def add_renamed(parser: argparse.ArgumentParser, old: str, now: str, **options: Any) -> None:
    """Add the old name of an option; `options` are those of `add_argument`, nargs=0 for a flag."""
    dest, hidden = now.lstrip("-").replace("-", "_"), argparse.SUPPRESS
    parser.add_argument(old, dest=dest, action=_Renamed, now=now, default=hidden, help=hidden, **options)
