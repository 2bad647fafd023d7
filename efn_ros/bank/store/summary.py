# SPDX-License-Identifier: MIT
"""Summaries of a bank for JSON: its contents, the rollouts behind corrections, and what shadow mode would change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from efn_ros.bank.format.catalogue import RolloutRecord
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.types import Mode, Outcome

ALL, NOT_EXPLORED = "all", "none"


def contents(records: Sequence[RolloutRecord]) -> list[dict]:
    """Count rollouts, decisions and bytes of payloads, by task and outcome, then of all."""
    return [
        {
            **group,
            "rollouts": len(members),
            "decisions": sum(r.decisions for r in members),
            "bytes": sum(r.payload_size for r in members),
        }
        for group, members in _groups(records, records)
    ]


def exploration(rollouts: Sequence[StoredRollout]) -> list[dict]:
    """Count decisions, their rollouts, and successes among these, by mode of exploration ("none": not explored).

    `credited` counts corrections in successes for which such a decision was the experience.
    """
    sources = Counter()
    explored = {r.record.id: dict(zip(r.arrays.steps.tolist(), r.arrays.explored, strict=True)) for r in rollouts}
    for source, step, _ in _credited(rollouts):
        sources[str(explored.get(source, {}).get(step, "")) or NOT_EXPLORED] += 1
    rows = []
    for mode in sorted({str(mode) for r in rollouts for mode in r.arrays.explored} | {""}):
        counts = {r.record.id: int((r.arrays.explored == mode).sum()) for r in rollouts}
        members = [r.record for r in rollouts if counts[r.record.id]]
        rows.append(
            {
                "mode": mode or NOT_EXPLORED,
                "decisions": sum(counts.values()),
                "rollouts": len(members),
                "successes": sum(r.outcome == Outcome.SUCCESS for r in members),
                "credited": sources[mode or NOT_EXPLORED],
            }
        )
    return rows


def credited(rollouts: Sequence[StoredRollout]) -> list[dict]:
    """Count corrections in successes, and their episodes, by the rollout behind them; those with most come first.

    A rollout that is no longer in the bank has neither task nor outcome.
    """
    records = {r.record.id: r.record for r in rollouts}
    found = list(_credited(rollouts))
    corrections = Counter(source for source, _, _ in found)
    episodes = Counter(source for source, _ in {(source, episode) for source, _, episode in found})
    return [
        {
            "rollout": source,
            "task": records[source].task if source in records else "",
            "outcome": records[source].outcome.name.lower() if source in records else "",
            "explored": records[source].explored if source in records else {},
            "corrections": count,
            "episodes": episodes[source],
        }
        for source, count in sorted(corrections.items(), key=lambda item: (-item[1], item[0]))
    ]


def shadow(rollouts: Sequence[StoredRollout]) -> list[dict]:
    """Measure what would have changed in decisions made in shadow mode, by task and outcome, then in all of them.

    Returns:
        A row for each group, none for a bank without such decisions: rollouts; decisions; proposed, the share of
        decisions with a proposal; clipped, the share of those that the limits reduced; confidence, the mean over
        decisions; mean and largest, |residual| over the proposed chunks, in the action's units, one entry a dimension,
        empty without a proposal.
    """
    in_shadow = [r for r in rollouts if (r.arrays.modes == Mode.SHADOW).any()]
    rows = []
    for group, members in _groups(in_shadow, [r.record for r in in_shadow]):
        arrays = [(r.arrays, r.arrays.modes == Mode.SHADOW) for r in members]
        confidence = np.concatenate([a.confidence[mask] for a, mask in arrays])
        clipped = np.concatenate([a.clipped[mask & a.proposes] for a, mask in arrays])
        size = np.abs(np.concatenate([a.proposed[mask & a.proposes] for a, mask in arrays])).astype(np.float64)
        rows.append(
            {
                **group,
                "rollouts": len(members),
                "decisions": len(confidence),
                "proposed": len(clipped) / len(confidence),
                "clipped": float(clipped.mean()) if len(clipped) else 0.0,
                "confidence": float(confidence.mean()),
                "mean": size.mean(axis=(0, 1)).tolist() if len(clipped) else [],
                "largest": size.max(axis=(0, 1)).tolist() if len(clipped) else [],
            }
        )
    return rows


def _credited(rollouts: Sequence[StoredRollout]) -> Iterator[tuple[str, int, str]]:
    """Yield for each correction in a success the rollout and step behind it, and the episode that succeeded."""
    for rollout in rollouts:
        if rollout.record.outcome == Outcome.SUCCESS:
            arrays = rollout.arrays
            for row in np.flatnonzero((arrays.modes == Mode.CORRECTED) & (arrays.source != "")):
                yield str(arrays.source[row]), int(arrays.source_step[row]), rollout.record.id


def _groups(items: Sequence, records: Sequence[RolloutRecord]) -> Iterator[tuple[dict[str, str], list]]:
    """Yield items by the task and outcome of their records, then all of them; no group without any item."""
    keys = [(record.task, record.outcome) for record in records]
    for task, outcome in sorted(set(keys)):
        members = [item for item, key in zip(items, keys, strict=True) if key == (task, outcome)]
        yield {"task": task, "outcome": outcome.name.lower()}, members
    if keys:
        yield {"task": ALL, "outcome": ""}, list(items)
