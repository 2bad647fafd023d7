"""generate the reference pages of docs/reference from the code, or check that they say the same"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="of the checkout")


def run(args: argparse.Namespace) -> int:
    from efn_ros.commands._reference import pages

    root = args.root.resolve()
    if not (root / "msg").is_dir():
        print(f"efn docs: no msg/ in {root}: run it in a checkout", file=sys.stderr)
        return 2
    stale = []
    for name, text in pages(root).items():
        path = root / "docs" / "reference" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(root))
            if not args.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path} differs from the code: run ./efn docs" if args.check else f"wrote {path}")
    return 1 if args.check and stale else 0
