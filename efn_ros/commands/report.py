# SPDX-License-Identifier: MIT
"""Fill tables and draw figures of the documents from the results files, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from efn_ros.report.blocks import fill, render
from efn_ros.report.figures import refresh


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--check", action="store_true", help="change no file; fail if a document is out of date")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="of the checkout")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if a document is out of date, 2 if one cannot be filled."""
    root = args.root.resolve()
    if not (root / "README.md").is_file():
        print(f"efn report: no README.md in {root}: run it in a checkout", file=sys.stderr)
        return 2
    blocks, stale = render(root), refresh(root, draw=not args.check)
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        try:
            filled = fill(text, blocks)
        except ValueError as error:
            print(f"efn report: {path}: {error}", file=sys.stderr)
            return 2
        if filled != text:
            stale.append(str(path.relative_to(root)))
            if not args.check:
                path.write_text(filled, encoding="utf-8")
    for path in stale:
        print(f"{path} differs from the results files: run ./efn report" if args.check else f"updated {path}")
    return 1 if args.check and stale else 0
