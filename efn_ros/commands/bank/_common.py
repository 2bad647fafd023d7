"""What the actions of `efn bank` share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efn_ros.bank import BankWriter, StoredRollout
    from efn_ros.bank.format.catalogue import RolloutRecord
    from efn_ros.bank.store.verify import Finding


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add `--where`."""
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="FILTER",
        help="all of which hold: task=push*, outcome=failure,aborted, 'date>=2026-11-01', 'decisions<5', ...",
    )


def select(rollouts: Sequence[StoredRollout], where: Iterable[str]) -> list[StoredRollout]:
    """Return the rollouts that all filters let pass."""
    from efn_ros.bank.store.filters import matching

    selected = {record.id for record in matching((r.record for r in rollouts), where)}
    return [rollout for rollout in rollouts if rollout.record.id in selected]


def whole_rollouts(bank: Path) -> tuple[StoredRollout, ...]:
    """Return all rollouts that are as they were written; the others are named on stderr."""
    from efn_ros.bank import BankReader

    snapshot = BankReader(bank, skip_corrupt=True).snapshot(verified=True)
    for rollout in snapshot.skipped:
        print(f"efn bank: rollout {rollout!r} is corrupt and left out", file=sys.stderr)
    return snapshot.rollouts


def open_writer(bank: Path, projection: str = "") -> BankWriter:
    """Open a bank for writing, with its own projection or, where there is no bank yet, the one named."""
    from efn_ros.bank import BankReader, BankWriter
    from efn_ros.features.sketches import Projection

    own = BankReader(bank).snapshot().projection
    return BankWriter(bank, projection=Projection.named(own or projection))


def report_findings(as_json: bool, rollouts: int, findings: Sequence[Finding], done: str) -> int:
    """Print what is damaged; 1 where anything is."""
    if as_json:
        print(json.dumps({"rollouts": rollouts, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(f"{finding.where}: {f'rollout {finding.rollout!r}: ' if finding.rollout else ''}{finding.what}")
        print(f"{done}, {len(findings) or 'nothing'} damaged")
    return 1 if findings else 0


def as_dict(record: RolloutRecord) -> dict[str, Any]:
    """Return a record for people and for JSON."""
    from efn_ros.bank.store.filters import date_of

    return {**asdict(record), "outcome": record.outcome.name.lower(), "began": date_of(record)}


def group_name(row: dict[str, Any]) -> str:
    """Return the name of a group of rollouts: a task, and an outcome where it is of one."""
    return f"{row['task']}, {row['outcome']}" if row["outcome"] else row["task"]


def progress(what: str) -> Callable[[Iterable], Iterable]:
    """Return what shows progress over items."""
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=what, disable=None)
