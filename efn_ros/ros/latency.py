"""Latency of each stage of the loop, from the stamps in the messages themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efn_ros.msg import CorrectedAction
from efn_ros.report.latency import STAGES
from efn_ros.ros.conversions import from_time


def stages(actions: Sequence[CorrectedAction]) -> dict[str, np.ndarray]:
    """Return stage -> seconds, float64, one entry for each corrected action."""
    rows = []
    for action in actions:
        image, observation, step, out = map(
            from_time, (action.context.header.stamp, action.observed, action.inferred, action.created)
        )
        recall = action.recall_s * 1e9 if action.recall_s == action.recall_s else 0.0
        rows.append((observation - image, step - observation, recall, out - step - recall, out - image))
    columns = np.array(rows, float).reshape(-1, len(STAGES)).T * 1e-9
    return dict(zip(STAGES, columns, strict=True))
