# SPDX-License-Identifier: MIT
"""Stages of the loop, and percentiles of their latency."""

from __future__ import annotations

import numpy as np

STAGES = {
    "observe": "image stamp to observation",
    "infer": "observation to policy step (transport and inference)",
    "recall": "policy step to recall",
    "correct": "the rest of the correction",
    "total": "image stamp to corrected action",
}


def summary(times: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return stage -> p50_s, p95_s, p99_s, max_s and n."""
    return {
        stage: {
            **{f"p{q}_s": float(np.percentile(values, q)) for q in (50, 95, 99)},
            "max_s": float(values.max()),
            "n": int(values.size),
        }
        for stage, values in times.items()
        if values.size
    }
