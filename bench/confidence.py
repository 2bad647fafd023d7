"""Whether memory succeeds as often as it is said to: a robot at work in many deployments, each episode foretold.

Run as `./efn shell python bench/confidence.py`; half an hour on two cores. In each deployment the robot works with what
it has remembered there, once with the packaged network and once without training. Before each episode, the chance is
what the episodes before it in the same bank promise. Beside it: confidence as it is, and the share of those before it
that succeeded. Prints a table, writes results/confidence.json; banks are kept in `--directory`, where a second run goes
on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import binomtest
from tqdm import tqdm

from efn_ros.bank import BankReader
from efn_ros.bank.format.steps import Followed
from efn_ros.commands._tasks import chosen
from efn_ros.evaluation.run import Fill, fill_bank
from efn_ros.report import provenance, results
from efn_ros.retrieval.success_model import foretold
from efn_ros.runtime.graph import Graph

RESULTS = Path(__file__).parent / "results" / "confidence.json"
ROBOT, FIRST_SEED = "libero_sim", 300
WITHOUT_TRAINING = {"method": "recalled_action", "gain": 0.5, "min_confidence": 0.0}
METHODS = {"learned": {}, "recalled": WITHOUT_TRAINING}
BINS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("confidence_bench"), help="for the banks")
    parser.add_argument("--deployments", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=100, help="in each deployment with each method")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    tasks = tuple(chosen(Graph.load(ROBOT, ()).parameters("libero_bridge"), None))
    seeds = range(FIRST_SEED, FIRST_SEED + args.deployments)
    fills = [
        Fill(ROBOT, seed, tasks, args.rollouts, (overlay(args.directory, method),), method)
        for seed in seeds
        for method in METHODS
    ]
    with ProcessPoolExecutor(args.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(fill_bank, fill, str(args.directory)) for fill in fills]
        for future in tqdm(as_completed(futures), desc="banks", total=len(futures)):
            future.result()
    banks = [followed(args.directory / "banks" / f"{fill.deployment}-{fill.way}") for fill in fills]
    result = {
        **provenance.here(),
        "deployments": args.deployments,
        "rollouts": args.rollouts,
        "success": {method: success(banks[i :: len(METHODS)]) for i, method in enumerate(METHODS)},
        "forms": forms(banks),
    }
    result["n"] = sum(bin_["n"] for bin_ in result["forms"]["chance"]["bins"])
    print(results.confidence_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def overlay(directory: Path, method: str) -> str:
    """A parameter file of the corrector; nothing is probed."""
    file = directory / f"{method}.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    parameters = METHODS[method] | {"exploration": {"mode": "off"}}
    file.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": parameters}}))
    return str(file.resolve())


def followed(bank: Path) -> list[Followed]:
    """Episodes of a bank in which memory corrected, the oldest first."""
    return [f for rollout in BankReader(bank).snapshot().rollouts if (f := rollout.followed())]


def success(banks: list[list[Followed]]) -> float:
    return float(np.mean([episode.success for bank in banks for episode in bank]))


def forms(banks: list[list[Followed]]) -> dict[str, dict]:
    """What each form says of the episodes of which `foretold` says anything, against how they ended."""
    said: dict[str, list[np.ndarray]] = {"chance": [], "confidence": [], "share": []}
    ends = []
    for episodes in banks:
        chance, ended = foretold(episodes)
        first = len(episodes) - len(ended)
        successes = np.cumsum([e.success for e in episodes])[first - 1 : -1]
        said["chance"].append(chance)
        said["confidence"].append(np.array([e.confidence.mean() for e in episodes[first:]]))
        said["share"].append((successes + 1) / (np.arange(first, len(episodes)) + 2))
        ends.append(ended)
    return {name: judged(np.concatenate(values), np.concatenate(ends)) for name, values in said.items()}


def judged(said: np.ndarray, ended: np.ndarray) -> dict:
    """Brier score; calibration error: the mean over BINS bins of as many episodes of |said - ended|; the bins."""
    bins = []
    for rows in np.array_split(np.argsort(said, kind="stable"), BINS):
        interval = binomtest(int(ended[rows].sum()), len(rows)).proportion_ci(method="wilson")
        bins.append({"said": float(said[rows].mean()), "ended": float(ended[rows].mean()), "n": len(rows)})
        bins[-1] |= {"low": float(interval.low), "high": float(interval.high)}
    error = sum(b["n"] * abs(b["said"] - b["ended"]) for b in bins) / len(said)
    return {"brier": float(np.mean((said - ended) ** 2)), "calibration_error": error, "bins": bins}


if __name__ == "__main__":
    main()
