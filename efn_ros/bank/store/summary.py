"""What a bank holds, which rollouts corrected most in successes, and what shadow mode would have changed; for JSON."""

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
    """Count, by mode of exploration ("none": not explored), decisions, their rollouts, and successes among these.

    `credited` counts corrections in successes that such a decision was the experience behind.
    """
    behind = Counter()
    explored = {r.record.id: dict(zip(r.arrays.steps.tolist(), r.arrays.explored, strict=True)) for r in rollouts}
    for source, step, _ in _credited(rollouts):
        behind[str(explored.get(source, {}).get(step, "")) or NOT_EXPLORED] += 1
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
                "credited": behind[mode or NOT_EXPLORED],
            }
        )
    return rows


def credited(rollouts: Sequence[StoredRollout]) -> list[dict]:
    """Count the corrections in successes by the rollout behind them, and their episodes; those with most come first.

    A rollout that is no longer in the bank has no task and no outcome.
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
    """Measure what would have changed in decisions made in shadow, by task and outcome, then in all of them.

    Returns:
        A row for each group, none for a bank without such decisions: rollouts; decisions; proposed, the share of
        decisions with a proposal; clipped, the share of those that the limits clipped; confidence, the mean over
        decisions; mean and largest, |residual| over the chunks proposed, in the action's units, one entry a dimension,
        empty where nothing was proposed.
    """
    in_shadow = [r for r in rollouts if (r.arrays.modes == Mode.SHADOW).any()]
    rows = []
    for group, members in _groups(in_shadow, [r.record for r in in_shadow]):
        arrays = [(r.arrays, r.arrays.modes == Mode.SHADOW) for r in members]
        confidence = np.concatenate([a.confidence[made] for a, made in arrays])
        clipped = np.concatenate([a.clipped[made & a.proposes] for a, made in arrays])
        size = np.abs(np.concatenate([a.proposed[made & a.proposes] for a, made in arrays])).astype(np.float64)
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
    """The experience behind each correction in a success: its rollout, its step, and the episode that succeeded."""
    for rollout in rollouts:
        if rollout.record.outcome == Outcome.SUCCESS:
            arrays = rollout.arrays
            for row in np.flatnonzero((arrays.modes == Mode.CORRECTED) & (arrays.source != "")):
                yield str(arrays.source[row]), int(arrays.source_step[row]), rollout.record.id


def _groups(items: Sequence, records: Sequence[RolloutRecord]) -> Iterator[tuple[dict, list]]:
    """`items` by the task and outcome of their `records`, and all of them last; nothing for none."""
    keys = [(record.task, record.outcome) for record in records]
    for task, outcome in sorted(set(keys)):
        members = [item for item, key in zip(items, keys, strict=True) if key == (task, outcome)]
        yield {"task": task, "outcome": outcome.name.lower()}, members
    if keys:
        yield {"task": ALL, "outcome": ""}, list(items)
