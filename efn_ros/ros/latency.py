# SPDX-License-Identifier: MIT
"""Latency of each stage of the loop, from the stamps in the messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from efn_ros.msg import CorrectedAction
from efn_ros.report.latency import STAGES
from efn_ros.ros.fields import from_time


def stages(actions: Sequence[CorrectedAction]) -> dict[str, np.ndarray]:
    """Return stage -> seconds, float64, one entry for each corrected action."""
    rows = []
    for action in actions:
        image, observation, step, created = map(
            from_time, (action.context.header.stamp, action.observed, action.inferred, action.created)
        )
        recall = 0.0 if math.isnan(action.recall_s) else action.recall_s * 1e9
        rows.append((observation - image, step - observation, recall, created - step - recall, created - image))
    columns = np.array(rows, float).reshape(-1, len(STAGES)).T * 1e-9
    return dict(zip(STAGES, columns, strict=True))
