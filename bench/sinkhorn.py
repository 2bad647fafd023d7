# SPDX-License-Identifier: MIT
"""What the Sinkhorn similarity of two observations costs, beside POT and, where it is installed, geomloss.

Run as `./efn shell python bench/sinkhorn.py`. Prints a table, writes results/sinkhorn.json. All take the same float32
tokens or affinities and return plan and score; POT takes its cost as float32 or as float64, one pair at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import ot
import torch

from efn_ros.experiments.sac.sinkhorn import cosine_affinity, sinkhorn_transport
from efn_ros.features.keys import unit
from efn_ros.report import provenance, tables

try:
    import geomloss.ot as geomloss
except ImportError:
    geomloss = None

RESULTS = Path(__file__).parent / "results" / "sinkhorn.json"
TOKENS, EPSILON, ITERATIONS = 256, 0.05, 50
REPEATS = {1: 100, 32: 11}  # by batch size; fewer where they take longer than SECONDS
SECONDS = 10
WIDTHS = (None, 128, 4096)  # of tokens; None: begin with the affinity of tokens of 128 channels
THREADS = (1, 2)
OURS, *OTHERS = ("efn_ros", "POT float32", "POT float64", "geomloss")
Scored = tuple[np.ndarray, object]  # score (B,), plan


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    load = os.getloadavg()[0]  # above 0: other processes run as well
    cases = []
    for threads in THREADS:
        # BLAS libraries read these once, when they are loaded.
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            cases += process.submit(measure_all, threads).result()
    rows = [
        [case["from"], case["batch"], case["threads"], tables.milliseconds(case["p50_s"][OURS])]
        + [ratio_to_ours(case["p50_s"], other) for other in OTHERS]
        for case in cases
    ]
    print(tables.markdown(["median, ms (ratio to ours)", "batch", "threads", OURS, *OTHERS], rows))
    here = provenance.here()
    for package in ("POT", "geomloss"):
        here["versions"][package] = metadata.version(package) if package == "POT" or geomloss else "not installed"
    here["machine"]["load"] = load
    problem = {"tokens": TOKENS, "epsilon": EPSILON, "iterations": ITERATIONS}
    args.results.write_text(json.dumps({**here, **problem, "cases": cases}, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def ratio_to_ours(times: dict[str, float], other: str) -> str:
    """Return the time of another implementation in words, with its ratio to ours."""
    if other not in times:
        return "not installed"
    return f"{tables.milliseconds(times[other])} ({times[other] / times[OURS]:.1f})"


def measure_all(threads: int) -> list[dict[str, object]]:
    """Measure all widths and batch sizes with so many threads."""
    warnings.simplefilter("ignore")  # POT warns that so many iterations do not converge
    torch.set_num_threads(threads)
    return [measure(width, batch, threads) for width in WIDTHS for batch in REPEATS]


@torch.inference_mode()
def measure(width: int | None, batch: int, threads: int) -> dict[str, object]:
    """Return median seconds by implementation, and the largest difference of scores from those of POT in float64.

    The implementations take turns, so that other load affects all.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, TOKENS, width or WIDTHS[1]), dtype=np.float32)
    y = x + rng.standard_normal(x.shape, dtype=np.float32)
    inputs = (cosine_affinity(torch.from_numpy(x), torch.from_numpy(y)).numpy(),) if width is None else (x, y)
    tensors = tuple(map(torch.from_numpy, inputs))
    runs: dict[str, Callable[[], Scored]] = {
        OURS: lambda: ours(*tensors),
        "POT float32": lambda: pot(np.float32, *inputs),
        "POT float64": lambda: pot(np.float64, *inputs),
    }
    if geomloss:
        runs["geomloss"] = lambda: run_geomloss(*tensors)
    scores = {name: run()[0] for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + SECONDS
    while len(times[OURS]) < REPEATS[batch] and time.perf_counter() < end:
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {
        "from": "affinity" if width is None else f"tokens of width {width}",
        "batch": batch,
        "threads": threads,
        "n": len(times[OURS]),
        "p50_s": {name: float(np.median(values)) for name, values in times.items()},
        "score_error": {name: float(np.abs(value - scores["POT float64"]).max()) for name, value in scores.items()},
    }


def ours(*inputs: torch.Tensor) -> Scored:
    """Run the implementation of this package on tokens x and y, or on their affinity."""
    affinity = inputs[0] if len(inputs) == 1 else cosine_affinity(*inputs)
    transport = sinkhorn_transport(affinity, epsilon=EPSILON, iterations=ITERATIONS)
    return transport.score.numpy(), transport.plan


def pot(dtype: type, *inputs: np.ndarray) -> Scored:
    """Run POT."""
    affinity = inputs[0] if len(inputs) == 1 else unit(inputs[0]) @ unit(inputs[1]).swapaxes(-1, -2)
    marginal = np.full(TOKENS, 1 / TOKENS, dtype)
    options = {"numItermax": ITERATIONS, "stopThr": 0}
    plans = [ot.sinkhorn(marginal, marginal, -s.astype(dtype, copy=False), EPSILON, **options) for s in affinity]
    return np.array([(np.vdot(plan, s) + 1) / 2 for plan, s in zip(plans, affinity, strict=True)]), plans


def run_geomloss(*inputs: torch.Tensor) -> Scored:
    """Run geomloss."""
    affinity = inputs[0] if len(inputs) == 1 else cosine_affinity(*inputs)
    plan = geomloss.solve_batch(-affinity, reg=EPSILON, max_iter=ITERATIONS).plan
    return ((plan * affinity).sum((-2, -1)).numpy() + 1) / 2, plan


if __name__ == "__main__":
    main()
