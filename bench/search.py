# SPDX-License-Identifier: MIT
"""Search over all keys of a bank: indexes compared, and recall with the one in use beside recall by instruction.

Run as `./efn shell python bench/search.py`. It compares indexes over the keys of `--steps` synthetic steps, and fills
synthetic banks in `--directory` (1.6 GB; a second run finds them there). hnswlib is measured where it is installed.
Prints tables, writes results/search.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
from bank import resident_bytes, time_start
from synthetic_bank import LENGTH, PROJECTION, instruction_embedding, random_query, random_walk, write_bank
from tqdm import tqdm

from efn_ros.bank import BankReader
from efn_ros.features.keys import unit
from efn_ros.features.sketches import quantise
from efn_ros.report import provenance
from efn_ros.report.blocks.bank import search_block
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.retrieval.config import EVERYTHING, SEARCHES
from efn_ros.retrieval.index import LISTS, PROBED_LISTS, SAMPLES_PER_LIST

try:
    import hnswlib
except ImportError:  # only compared with, no dependency of the package
    hnswlib = None

RESULTS = Path(__file__).parent / "results" / "search.json"
# As `faiss.index_factory` names them. In use: Flat up to `EXACT_STEPS` steps, beyond them IVF with SQfp16.
INDEXES = (
    "Flat",
    *(f"IVF{LISTS},{storage}" for storage in ("Flat", "SQfp16", "SQ8")),
    *("HNSW16,Flat", "HNSW16,SQ8", "hnswlib"),
)
HNSW_LINKS, HNSW_BUILD = 16, 40  # of hnswlib, as of faiss
HITS, NEAREST = RetrievalConfig().hits, 10
QUERIES, NOISE = 300, 0.5  # NOISE: length of the vector that is added to a stored key
ELSEWHERE = 16.0  # distance of other rollouts, in each entry, where a step of a walk is 1
EPISODES, DECISIONS = 10, 50
KIND = faiss.METRIC_INNER_PRODUCT


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("bank_bench"), help="for the synthetic banks")
    parser.add_argument("--steps", type=int, default=10**6, help="in the index")
    parser.add_argument("--banks", type=int, nargs="+", default=[10**4, 10**6], help="their steps")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    result = {**provenance.here(), "steps": args.steps, "hits": HITS, "queries": QUERIES}
    result["versions"] |= {name: version(name) for name in ("faiss-cpu", "hnswlib")}
    result["indexes"] = compare(args.steps)
    banks = {steps: args.directory / f"{steps:.0e}" for steps in sorted(args.banks)}
    result["banks"] = [row for steps, bank in banks.items() for row in measure_bank(bank, steps)]
    print(search_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def version(package: str) -> str:
    """Return the version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def compare(steps: int) -> list[dict]:
    """Measure every index, built of so many keys; later a tenth more is added, of rollouts with other observations."""
    rng, rollouts = np.random.default_rng(0), -(-steps // LENGTH)
    elsewhere = ELSEWHERE * rng.standard_normal(PROJECTION.output_size, np.float32)
    keys = random_keys(range(rollouts))
    added = random_keys(range(rollouts, rollouts + -(-rollouts // 10)), elsewhere)
    queries = make_queries(rng, keys, keys), make_queries(rng, added, np.concatenate([keys, added]))
    return [{"index": name, **measure_index(name, keys, added, queries)} for name in tqdm(INDEXES, desc="indexes")]


def random_keys(rollouts: range, offset: np.ndarray | float = 0.0) -> np.ndarray:
    """Return unit keys as a bank keeps them, float32 (N, d), of rollouts of the synthetic banks."""
    walks = (random_walk(np.random.default_rng(index)) + offset for index in tqdm(rollouts, desc="keys"))
    return np.concatenate([unit(quantise(unit(walk)).q) for walk in walks])


def add_noise(rng: np.random.Generator, key: np.ndarray) -> np.ndarray:
    """Return a query similar to a unit key (d,): a unit vector out of int8."""
    return unit(quantise(key + NOISE * unit(rng.standard_normal(len(key), np.float32))).q)


def make_queries(rng: np.random.Generator, near: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return queries near some keys, (QUERIES, d), and the rows of the nearest of all keys, (QUERIES, NEAREST)."""
    queries = np.stack([add_noise(rng, near[row]) for row in rng.choice(len(near), QUERIES)])
    return queries, faiss.knn(queries, keys, NEAREST, metric=KIND)[1]


class Hnswlib:
    """hnswlib with the interface of a faiss index."""

    def __init__(self, capacity: int) -> None:
        """Make an empty index for so many keys."""
        self._index = hnswlib.Index("ip", PROJECTION.output_size)
        self._index.init_index(capacity, M=HNSW_LINKS, ef_construction=HNSW_BUILD)
        self._index.set_ef(HITS)

    def add(self, keys: np.ndarray) -> None:
        """Add keys (N, d)."""
        self._index.add_items(keys, num_threads=1)

    def search(self, query: np.ndarray, hits: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and rows, each (1, hits)."""
        rows, distances = self._index.knn_query(query, hits, num_threads=1)
        return distances, rows

    def nbytes(self) -> int:
        """Return the size of the index."""
        return self._index.index_file_size()


def measure_index(name: str, keys: np.ndarray, added: np.ndarray, queries: Sequence[tuple]) -> dict:
    """Measure one index, built of `keys`, with the queries near them; then with `added`, and those near it."""
    if name == "hnswlib" and hnswlib is None:
        return {"missing": "not installed"}
    began = time.perf_counter()
    index = Hnswlib(len(keys) + len(added)) if name == "hnswlib" else trained(name, keys)
    index.add(keys)
    built = time.perf_counter() - began
    size = index.nbytes() if name == "hnswlib" else faiss.serialize_index(index).nbytes
    found, seconds = search(index, *queries[0])
    index.add(added)
    found_elsewhere, seconds_elsewhere = search(index, *queries[1])
    return {
        "found": found,
        "search_s": float(np.median(seconds)),
        "search_p99_s": float(np.percentile(seconds, 99)),
        "made_s": built,
        "bytes_a_step": size / len(keys),
        "found_elsewhere": found_elsewhere,
        "search_elsewhere_s": float(np.median(seconds_elsewhere)),
        "n": len(seconds),
    }


def trained(name: str, keys: np.ndarray) -> faiss.Index:
    """Return an index of faiss, trained on keys (N, d), and empty."""
    index = faiss.index_factory(keys.shape[1], name, KIND)
    index.train(keys[:: max(1, len(keys) // (SAMPLES_PER_LIST * LISTS))])
    if name.startswith("IVF"):
        index.nprobe = PROBED_LISTS
    elif name.startswith("HNSW"):
        index.hnsw.efSearch = HITS
    return index


def search(index: faiss.Index | Hnswlib, queries: np.ndarray, nearest: np.ndarray) -> tuple[float, list[float]]:
    """Return recall@10, the share of the nearest that are found, and the seconds of each query."""
    shares, seconds = [], []
    for query, near in zip(queries, nearest, strict=True):
        began = time.perf_counter()
        _, rows = index.search(query[None], HITS)
        seconds.append(time.perf_counter() - began)
        shares.append(np.isin(near, rows[0, :NEAREST]).mean())
    return float(np.mean(shares)), seconds


def measure_bank(bank: Path, steps: int) -> list[dict]:
    """Measure recall with both searches, each in a process of its own."""
    write_bank(bank, steps)
    rows = []
    for search in SEARCHES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append({"steps": steps, "search": search, **pool.apply(measure_recall, (bank, search))})
    return rows


def measure_recall(bank: Path, search: str) -> dict:
    """Measure recall of a robot that observes nearly what one rollout after the other holds.

    To be run in a fresh process.
    """
    faiss.omp_set_num_threads(1)
    retriever = Retriever(BankReader(bank), RetrievalConfig(search=search, random_steps=16))
    began = time.perf_counter()
    rollouts = retriever.prefetch().rollouts
    prefetch = time.perf_counter() - began
    rng, changes = np.random.default_rng(0), 0
    start, recall, index, compared = [], [], [], []
    for episode in range(EPISODES + 1):  # the first one imports modules
        number = int(rng.integers(len(rollouts)))
        keys, embedding, before = rollouts[number].steps.key, instruction_embedding(number), None
        start.append(time_start(retriever, random_query(rng, f"episode-{episode}", 0, embedding)))
        for step in range(DECISIONS):
            query = random_query(rng, f"episode-{episode}", step, embedding)
            query = replace(query, key=quantise(add_noise(rng, unit(keys[step * LENGTH // DECISIONS]))))
            began = time.perf_counter()
            compared.append(retriever.recall(query).candidates)
            recall.append(time.perf_counter() - began)
            if search == EVERYTHING:
                began = time.perf_counter()
                retriever._eligible_steps.search(query.key.q, HITS)
                index.append(time.perf_counter() - began)
            changes += retriever._candidates is not before and episode > 0
            before = retriever._candidates
    recall, index = recall[DECISIONS:], index[DECISIONS:]
    return {
        "rollouts": len(rollouts),
        "candidates": int(np.median(compared)),
        "warm_s": prefetch,
        "start_s": float(np.median(start[1:])),
        "recall_s": float(np.median(recall)),
        "recall_p99_s": float(np.percentile(recall, 99)),
        "search_s": float(np.median(index)) if index else None,
        "chosen_anew": changes / len(recall),
        "resident_bytes": resident_bytes(),
        "n": len(recall),
    }


if __name__ == "__main__":
    main()
