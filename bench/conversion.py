# SPDX-License-Identifier: MIT
"""What it costs to convert arrays to messages and back, beside a plain copy of as many bytes.

Run as `./efn shell python bench/conversion.py`. Prints a table, writes results/conversion.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image

from efn_ros.features.sketches import Projection
from efn_ros.report import provenance, tables
from efn_ros.ros import conversions
from efn_ros.ros.fields import from_field, to_field
from efn_ros.ros.images import from_rgb, to_rgb
from efn_ros.types import Observation, PolicyStep, StepContext

RESULTS = Path(__file__).parent / "results" / "conversion.json"
REPEATS = 2000


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = {name: measure(case) for name, case in make_cases().items()}
    rows = [[name, *(f"{1e3 * r[q]:.4f}" for q in ("p50_s", "p99_s"))] for name, r in results.items()]
    print(tables.markdown(["conversion, ms", "median", "p99"], rows))
    args.results.write_text(json.dumps({**provenance.here(), "n": REPEATS, "cases": results}, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def make_cases() -> dict[str, Callable[[], object]]:
    """Return name -> conversion."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (128, 170, 3), dtype=np.uint8)  # 64 KB
    floats = rng.standard_normal(16384, dtype=np.float32)  # 64 KB
    small = np.ascontiguousarray(image[:96, :96])
    context = StepContext("0" * 32, 3, 1, "push", "push the puck to the green ball")
    observation = Observation(context, {"left": small, "right": small}, np.zeros(4, np.float32))
    tokens = rng.standard_normal((80, 128), dtype=np.float32)
    projection = Projection(128, 128, 0)
    key, sketch = projection.describe(tokens), projection.sketch(tokens)
    latent, embedding = floats[:512].reshape(4, 128), floats[:64]
    step = PolicyStep(context, np.zeros((4, 4), np.float32), key, sketch, latent, embedding, np.zeros(4, np.float32))
    field, message = to_field(floats), from_rgb(image, Image().header)
    observed, inferred = conversions.observation_to_msg(observation, 0), conversions.policy_step_to_msg(step, 0, 0)
    return {
        "64 KB copied by numpy": lambda: image.copy(),
        "64 KB of float32 to a field": lambda: to_field(floats),
        "64 KB of float32 from a field": lambda: from_field(field),
        "64 KB image to a message": lambda: from_rgb(image, message.header),
        "64 KB image from a message": lambda: to_rgb(message),
        "observation, 2 images of 27 KB, to a message": lambda: conversions.observation_to_msg(observation, 0),
        "observation from a message": lambda: conversions.observation_from_msg(observed),
        "policy step, 80 x 128 sketch, to a message": lambda: conversions.policy_step_to_msg(step, 0, 0),
        "policy step from a message": lambda: conversions.policy_step_from_msg(inferred),
    }


def measure(case: Callable[[], object]) -> dict[str, float]:
    """Return percentiles of the seconds of one call."""
    times = np.empty(REPEATS)
    for i in range(REPEATS):
        began = time.perf_counter()
        case()
        times[i] = time.perf_counter() - began
    return {"p50_s": float(np.percentile(times, 50)), "p99_s": float(np.percentile(times, 99))}


if __name__ == "__main__":
    main()
