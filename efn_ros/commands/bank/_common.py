# SPDX-License-Identifier: MIT
"""Functions that the actions of `efn bank` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efn_ros.commands._output import Output

if TYPE_CHECKING:
    from efn_ros.bank import BankWriter, StoredRollout
    from efn_ros.bank.format.catalogue import RolloutRecord
    from efn_ros.bank.store.verify import Finding


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add `--where`."""
    text = "all must match: task=push*, outcome=failure,aborted, 'date>=2026-11-01', 'decisions<5', ..."
    parser.add_argument("--where", nargs="+", default=[], metavar="FILTER", help=text)


def select(rollouts: Sequence[StoredRollout], where: Iterable[str]) -> list[StoredRollout]:
    """Return the rollouts that match all filters."""
    from efn_ros.bank.store.filters import matching

    selected = {record.id for record in matching((r.record for r in rollouts), where)}
    return [rollout for rollout in rollouts if rollout.record.id in selected]


def intact_rollouts(bank: Path) -> tuple[StoredRollout, ...]:
    """Return all rollouts that are not corrupt; the others are named on stderr."""
    from efn_ros.bank import BankReader

    snapshot = BankReader(bank, skip_corrupt=True).snapshot(verified=True)
    for rollout in snapshot.skipped:
        print(f"efn bank: rollout {rollout!r} is corrupt and left out", file=sys.stderr)
    return snapshot.rollouts


def open_writer(bank: Path, projection: str = "") -> BankWriter:
    """Open a bank for writing, with its own projection or, for a new bank, with the given one."""
    from efn_ros.bank import BankReader, BankWriter
    from efn_ros.features.sketches import Projection

    own = BankReader(bank).snapshot().projection
    return BankWriter(bank, projection=Projection.from_identity(own or projection))


def findings_output(rollouts: int, findings: Sequence[Finding], done: str) -> Output:
    """Return what is damaged; the exit code is 1 for any finding."""
    lines = [f"{f.where}: {f'rollout {f.rollout!r}: ' if f.rollout else ''}{f.what}" for f in findings]
    lines.append(f"{done}, {len(findings) or 'nothing'} damaged")
    data = {"rollouts": rollouts, "findings": [asdict(finding) for finding in findings]}
    return Output(data, "\n".join(lines), 1 if findings else 0)


def as_dict(record: RolloutRecord) -> dict[str, Any]:
    """Return a record ready for JSON."""
    from efn_ros.bank.store.filters import date_of

    return {**asdict(record), "outcome": record.outcome.name.lower(), "began": date_of(record)}


def group_name(row: dict[str, Any]) -> str:
    """Return the name of a group of rollouts: a task, with an outcome if the group has one."""
    return f"{row['task']}, {row['outcome']}" if row["outcome"] else row["task"]


def progress(what: str) -> Callable[[Iterable], Iterable]:
    """Return a function that shows a progress bar over items."""
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=what, disable=None)
