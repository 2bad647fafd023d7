# SPDX-License-Identifier: MIT
"""Add the rollouts of other banks with the same projection."""

from __future__ import annotations

import argparse
from pathlib import Path

from efn_ros.commands._output import Output
from efn_ros.commands._renamed import add_renamed
from efn_ros.commands.bank._common import open_writer, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="banks whose rollouts are added")
    what = "also add rollouts that were removed from BANK"
    parser.add_argument("--include-removed", action="store_true", help=what)
    add_renamed(parser, "--forgotten", "--include-removed", nargs=0)


def run(args: argparse.Namespace) -> Output:
    """Run the action; the exit code is 1 if a source has another rollout of the same name."""
    from efn_ros.bank import BankReader

    added: list[str] = []
    present: list[str] = []
    removed: list[str] = []
    different: list[str] = []
    sources = [BankReader(source.expanduser()).snapshot() for source in args.sources]
    for source, snapshot in zip(args.sources, sources, strict=True):
        if not snapshot.projection:
            raise ValueError(f"there is no bank in {source}; name a directory that ./efn bank ls can read")
    with open_writer(args.bank, sources[0].projection) as writer:
        checksums, excluded = {r.id: r.payload_checksum for r in BankReader(args.bank).rollouts()}, writer.removed()
        for rollout in progress("rollouts")([r for snapshot in sources for r in snapshot.rollouts]):
            record = rollout.record
            if record.id in checksums:
                (present if checksums[record.id] == record.payload_checksum else different).append(record.id)
            elif record.id in excluded and not args.include_removed:
                removed.append(record.id)
            else:
                writer.adopt(rollout)
                checksums[record.id] = record.payload_checksum
                added.append(record.id)
    lines = [f"{len(added)} rollouts are added to {args.bank}, {len(present)} were in it already"]
    for names, why in (
        (removed, "were removed from it before; --include-removed adds them"),
        (different, "are not added: the bank has others of these names"),
    ):
        if names:
            lines.append(f"{len(names)} {why}: {', '.join(names)}")
    data = {"added": added, "already_present": present, "removed": removed, "different": different}
    return Output(data, "\n".join(lines), 1 if different else 0)
