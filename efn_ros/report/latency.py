"""Where the time from image to corrected action goes, read off the messages' own stamps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efn_ros.msg import CorrectedAction
from efn_ros.ros.conversions import from_time

STAGES = {
    "observe": "image stamp to observation",
    "infer": "observation to policy step (transport and inference)",
    "recall": "policy step to the memory's answer",
    "correct": "the rest of the correction",
    "total": "image stamp to corrected action",
}


def stages(actions: Sequence[CorrectedAction]) -> dict[str, np.ndarray]:
    """Stage -> seconds, one entry for each corrected action."""
    rows = []
    for action in actions:
        image, observation, step, out = map(
            from_time, (action.context.header.stamp, action.observed, action.inferred, action.created)
        )
        recall = action.recall_s * 1e9 if action.recall_s == action.recall_s else 0.0
        rows.append((observation - image, step - observation, recall, out - step - recall, out - image))
    columns = np.array(rows, float).reshape(-1, len(STAGES)).T * 1e-9
    return dict(zip(STAGES, columns, strict=True))


def summary(times: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Stage -> p50_s, p95_s, p99_s, max_s and n."""
    return {
        stage: {
            **{f"p{q}_s": float(np.percentile(values, q)) for q in (50, 95, 99)},
            "max_s": float(values.max()),
            "n": int(values.size),
        }
        for stage, values in times.items()
        if values.size
    }
