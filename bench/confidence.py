# SPDX-License-Identifier: MIT
"""How well success is predicted before an episode ends: prequential predictions of a robot at work in deployments.

Run as `./efn shell python bench/confidence.py`; half an hour on two cores. In each deployment the robot works with the
memory that it collects there, once with the packaged network and once without training. The success probability of an
episode comes from those before it in the same bank. Beside it: confidence as it is, and the share of those before it
that succeeded. Prints a table, writes results/confidence.json; banks stay in `--directory`, where a second run
continues.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import binomtest
from tqdm import tqdm

from efn_ros.bank import BankReader
from efn_ros.bank.format.steps import FollowedEpisode
from efn_ros.commands._options import select_tasks
from efn_ros.evaluation.banks import BankFill, bank_directory, fill_bank
from efn_ros.report import provenance
from efn_ros.report.blocks.learning import confidence_block
from efn_ros.runtime.graph import Graph

sys.path.append(str(Path(__file__).parents[1] / "test" / "support"))
from sample_recalls import prequential_predictions  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "confidence.json"
GRAPH, FIRST_SEED = "metaworld_sim", 300
METHODS = {  # name -> parameters of the corrector
    "learned": {},
    "recalled": {"method": "recalled_action", "gain": 0.5, "min_confidence": 0.0},
}
FORMS = PROBABILITY, CONFIDENCE, RATE = "success_probability", "confidence", "success_rate"
BINS = 8


def main() -> None:
    """Fill the banks, predict and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("confidence_bench"), help="for the banks")
    parser.add_argument("--deployments", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=100, help="in each deployment with each method")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    tasks = tuple(select_tasks(Graph.load(GRAPH).world, None))
    fills = [
        BankFill(GRAPH, seed, tasks, args.rollouts, (write_overlay(args.directory, method),), method)
        for seed in range(FIRST_SEED, FIRST_SEED + args.deployments)
        for method in METHODS
    ]
    with ProcessPoolExecutor(args.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(fill_bank, fill, str(args.directory)) for fill in fills]
        for future in tqdm(as_completed(futures), desc="banks", total=len(futures)):
            future.result()
    banks = [read_followed(bank_directory(args.directory, fill.deployment, fill.condition)) for fill in fills]
    result = {
        **provenance.here(),
        "deployments": args.deployments,
        "rollouts": args.rollouts,
        "success": {method: success(banks[i :: len(METHODS)]) for i, method in enumerate(METHODS)},
        "forms": evaluate_forms(banks),
    }
    result["n"] = sum(bin_["n"] for bin_ in result["forms"][PROBABILITY]["bins"])
    print(confidence_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def write_overlay(directory: Path, method: str) -> str:
    """Write the parameter file of a method, without exploration, and return its path."""
    file = directory / f"{method}.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    parameters = METHODS[method] | {"exploration": {"mode": "off"}}
    file.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": parameters}}))
    return str(file.resolve())


def read_followed(bank: Path) -> list[FollowedEpisode]:
    """Return the episodes of a bank in which memory was followed, oldest first."""
    return [followed for rollout in BankReader(bank).snapshot().rollouts if (followed := rollout.followed())]


def success(banks: list[list[FollowedEpisode]]) -> float:
    """Return the share of all episodes that succeeded."""
    return float(np.mean([episode.success for bank in banks for episode in bank]))


def evaluate_forms(banks: list[list[FollowedEpisode]]) -> dict[str, dict]:
    """Return how well each of FORMS predicts the outcomes of the episodes that the success model predicts."""
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in FORMS}
    outcomes = []
    for episodes in banks:
        probability, succeeded = prequential_predictions(episodes)
        first = len(episodes) - len(succeeded)
        successes = np.cumsum([e.success for e in episodes])[first - 1 : -1]
        predicted[PROBABILITY].append(probability)
        predicted[CONFIDENCE].append(np.array([e.confidence.mean() for e in episodes[first:]]))
        predicted[RATE].append((successes + 1) / (np.arange(first, len(episodes)) + 2))
        outcomes.append(succeeded)
    return {name: calibration(np.concatenate(values), np.concatenate(outcomes)) for name, values in predicted.items()}


def calibration(predicted: np.ndarray, succeeded: np.ndarray) -> dict:
    """Return the quality of predictions, (N,) in [0, 1], of outcomes, bool (N,).

    Returns:
        The Brier score; the mean |predicted - observed| over BINS bins of as many episodes; those bins.
    """
    bins = []
    for rows in np.array_split(np.argsort(predicted, kind="stable"), BINS):
        interval = binomtest(int(succeeded[rows].sum()), len(rows)).proportion_ci(method="wilson")
        means = {"predicted": float(predicted[rows].mean()), "observed": float(succeeded[rows].mean())}
        bins.append({**means, "n": len(rows), "low": float(interval.low), "high": float(interval.high)})
    error = sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in bins) / len(predicted)
    return {"brier": float(np.mean((predicted - succeeded) ** 2)), "calibration_error": error, "bins": bins}


if __name__ == "__main__":
    main()
