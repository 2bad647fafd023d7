# SPDX-License-Identifier: MIT
"""Generate the pages that come from the code, or check that they are up to date; build or show the site."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    parser.add_argument("--site", type=Path, metavar="DIRECTORY", help="build the documentation site there")
    parser.add_argument(
        "--serve", action="store_true", help="show the site on a local port and follow changes of docs/"
    )
    parser.add_argument("--address", default="127.0.0.1:8000", help="of --serve, as host:port")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="of the checkout")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        1 if a page is out of date or the site has a fault, 2 outside a checkout, else 0.
    """
    from efn_ros.commands._reference import pages

    root = args.root.resolve()
    if not (root / "msg").is_dir():
        print(f"efn docs: no msg/ in {root}: run it in a checkout", file=sys.stderr)
        return 2
    stale = []
    for name, text in pages(root).items():
        path = root / "docs" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(root))
            if not args.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path} differs from the code: run ./efn docs" if args.check else f"wrote {path}")
    if args.check and stale:
        return 1
    if args.site:
        return _mkdocs(root, "build", "--strict", "--site-dir", str(args.site.resolve()))
    return _mkdocs(root, "serve", "--dev-addr", args.address) if args.serve else 0


def _mkdocs(root: Path, *words: str) -> int:
    quiet = {"NO_MKDOCS_2_WARNING": "1"}  # of the theme, about a release of mkdocs that is not pinned
    return subprocess.run([sys.executable, "-m", "mkdocs", *words], cwd=root, env={**os.environ, **quiet}).returncode
