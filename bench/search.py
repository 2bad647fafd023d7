"""Searching everything: which index, what it finds and what it costs, and a recall with it beside one by instruction.

Run as `./efn shell python bench/search.py`. It compares indexes over the keys of `--steps` synthetic steps, and fills
synthetic banks in `--directory` (1.6 GB; a second run finds them there). hnswlib is measured where it can be imported.
Prints tables, writes results/search.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
from tqdm import tqdm

from efn_ros.bank import BankReader
from efn_ros.features.keys import unit
from efn_ros.features.sketches import quantise
from efn_ros.report import provenance, tables
from efn_ros.retrieval import RecallConfig, Retriever
from efn_ros.retrieval.config import EVERYTHING, SEARCHES
from efn_ros.retrieval.index import LEARNT_FROM, LISTS, PROBED

try:
    import hnswlib
except ImportError:  # it is compared with, and no part of the package
    hnswlib = None

sys.path.append(str(Path(__file__).parent))
from bank import LENGTH, PROJECTION, drift, embedding, fill, look, resident_bytes  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "search.json"
USED = f"IVF{LISTS},SQfp16"  # beyond `EXACT` steps, as `faiss.index_factory` calls it; up to them it is Flat
INDEXES = ("Flat", f"IVF{LISTS},Flat", USED, f"IVF{LISTS},SQ8", "HNSW16,Flat", "HNSW16,SQ8", "hnswlib")
HNSW_LINKS, HNSW_BUILD = 16, 40  # of hnswlib, as of faiss
HITS, NEAREST = RecallConfig().hits, 10
QUERIES, NOISE = 300, 0.5  # of a remembered key, the length of what is added
ELSEWHERE = 16.0  # of each entry, where a step of a walk is 1
EPISODES, DECISIONS = 10, 50
KIND = faiss.METRIC_INNER_PRODUCT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("bank_bench"), help="for the synthetic banks")
    parser.add_argument("--steps", type=int, default=10**6, help="in the index")
    parser.add_argument("--banks", type=int, nargs="+", default=[10**4, 10**6], help="their steps")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    result = {**provenance.here(), "steps": args.steps, "hits": HITS, "queries": QUERIES}
    result["versions"] |= {name: version(name) for name in ("faiss-cpu", "hnswlib")}
    result["indexes"] = compare(args.steps)
    result["banks"] = [row for steps in sorted(args.banks) for row in recalled(args.directory / f"{steps:.0e}", steps)]
    report(result)
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def compare(steps: int) -> list[dict]:
    """Indexes that are made of so many keys, to which a tenth more is added, of rollouts that see something else."""
    rng, rollouts = np.random.default_rng(0), -(-steps // LENGTH)
    elsewhere = ELSEWHERE * rng.standard_normal(PROJECTION.output_size, np.float32)
    keys = remembered(range(rollouts))
    added = remembered(range(rollouts, rollouts + -(-rollouts // 10)), elsewhere)
    asked = ask(rng, keys, keys), ask(rng, added, np.concatenate([keys, added]))
    return [{"index": name, **measure_index(name, keys, added, asked)} for name in tqdm(INDEXES, desc="indexes")]


def remembered(rollouts: range, elsewhere: np.ndarray | float = 0.0) -> np.ndarray:
    """Unit keys as a bank keeps them, float32 (N, d), of rollouts of the synthetic banks."""
    seen = (drift(np.random.default_rng(index)) + elsewhere for index in tqdm(rollouts, desc="keys"))
    return np.concatenate([unit(quantise(unit(steps)).q) for steps in seen])


def noisy(rng: np.random.Generator, key: np.ndarray) -> np.ndarray:
    """What is nearly a unit key (d,), as a query: a unit vector out of int8."""
    return unit(quantise(key + NOISE * unit(rng.standard_normal(len(key), np.float32))).q)


def ask(rng: np.random.Generator, near: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries near some keys, (QUERIES, d), and the rows of the nearest of all keys, (QUERIES, NEAREST)."""
    queries = np.stack([noisy(rng, near[row]) for row in rng.choice(len(near), QUERIES)])
    return queries, faiss.knn(queries, keys, NEAREST, metric=KIND)[1]


class Hnswlib:
    """As an index of faiss."""

    def __init__(self, capacity: int) -> None:
        self._index = hnswlib.Index("ip", PROJECTION.output_size)
        self._index.init_index(capacity, M=HNSW_LINKS, ef_construction=HNSW_BUILD)
        self._index.set_ef(HITS)

    def add(self, keys: np.ndarray) -> None:
        self._index.add_items(keys, num_threads=1)

    def search(self, query: np.ndarray, hits: int) -> tuple[np.ndarray, np.ndarray]:
        rows, distances = self._index.knn_query(query, hits, num_threads=1)
        return distances, rows

    def nbytes(self) -> int:
        return self._index.index_file_size()


def measure_index(name: str, keys: np.ndarray, added: np.ndarray, asked: Sequence[tuple]) -> dict:
    if name == "hnswlib" and hnswlib is None:
        return {"missing": "not installed"}
    began = time.perf_counter()
    index = Hnswlib(len(keys) + len(added)) if name == "hnswlib" else trained(name, keys)
    index.add(keys)
    made = time.perf_counter() - began
    size = index.nbytes() if name == "hnswlib" else faiss.serialize_index(index).nbytes
    found, took = search(index, *asked[0])
    index.add(added)
    found_elsewhere, took_elsewhere = search(index, *asked[1])
    return {
        "found": found,
        "search_s": float(np.median(took)),
        "search_p99_s": float(np.percentile(took, 99)),
        "made_s": made,
        "bytes_a_step": size / len(keys),
        "found_elsewhere": found_elsewhere,
        "search_elsewhere_s": float(np.median(took_elsewhere)),
        "n": len(took),
    }


def trained(name: str, keys: np.ndarray) -> faiss.Index:
    """An index of faiss that knows what to keep, and is empty."""
    index = faiss.index_factory(keys.shape[1], name, KIND)
    index.train(keys[:: max(1, len(keys) // (LEARNT_FROM * LISTS))])
    if name.startswith("IVF"):
        index.nprobe = PROBED
    elif name.startswith("HNSW"):
        index.hnsw.efSearch = HITS
    return index


def search(index: faiss.Index | Hnswlib, queries: np.ndarray, nearest: np.ndarray) -> tuple[float, list[float]]:
    """Share of the nearest that are found, and the seconds that each query took."""
    shares, took = [], []
    for query, near in zip(queries, nearest, strict=True):
        began = time.perf_counter()
        _, rows = index.search(query[None], HITS)
        took.append(time.perf_counter() - began)
        shares.append(np.isin(near, rows[0, :NEAREST]).mean())
    return float(np.mean(shares)), took


def recalled(bank: Path, steps: int) -> list[dict]:
    """Of both searches, each in a process of its own."""
    fill(bank, steps)
    rows = []
    for search in SEARCHES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append({"steps": steps, "search": search, **pool.apply(measure_recall, (bank, search))})
    return rows


def measure_recall(bank: Path, search: str) -> dict:
    """In a fresh process, whose robot sees nearly what it saw in one rollout after the other."""
    faiss.omp_set_num_threads(1)
    retriever = Retriever(BankReader(bank), RecallConfig(search=search, context=16))
    began = time.perf_counter()
    rollouts = retriever.warm().rollouts
    made = time.perf_counter() - began
    rng, chosen = np.random.default_rng(0), 0
    start, took, searched, compared = [], [], [], []
    for episode in range(EPISODES + 1):  # of which the first imports
        index = int(rng.integers(len(rollouts)))
        steps, asked, before = rollouts[index].steps, embedding(index), None
        began = time.perf_counter()
        retriever.begin(f"episode-{episode}", asked)
        start.append(time.perf_counter() - began)
        for step in range(DECISIONS):
            query = look(rng, f"episode-{episode}", step, asked)
            query = replace(query, key=quantise(noisy(rng, unit(steps.key[step * LENGTH // DECISIONS]))))
            began = time.perf_counter()
            compared.append(retriever.recall(query).candidates)
            took.append(time.perf_counter() - began)
            if search == EVERYTHING:
                began = time.perf_counter()
                retriever._searched.search(query.key.q, HITS)
                searched.append(time.perf_counter() - began)
            chosen += retriever._candidates is not before and episode > 0
            before = retriever._candidates
    took, searched = took[DECISIONS:], searched[DECISIONS:]
    return {
        "rollouts": len(rollouts),
        "candidates": int(np.median(compared)),
        "warm_s": made,
        "start_s": float(np.median(start[1:])),
        "recall_s": float(np.median(took)),
        "recall_p99_s": float(np.percentile(took, 99)),
        "search_s": float(np.median(searched)) if searched else None,
        "chosen_anew": chosen / len(took),
        "resident_bytes": resident_bytes(),
        "n": len(took),
    }


def report(result: dict) -> None:
    ms = lambda seconds: "-" if seconds is None else f"{1e3 * seconds:.2f}"  # noqa: E731
    columns = ["index", "recall@10", "search, ms", "p99", "made, s", "bytes a step", "elsewhere", "ms"]
    rows = [
        [row["index"], row["missing"], *["-"] * 6]
        if "missing" in row
        else [
            row["index"],
            f"{row['found']:.3f}",
            ms(row["search_s"]),
            ms(row["search_p99_s"]),
            f"{row['made_s']:.1f}",
            f"{row['bytes_a_step']:.0f}",
            f"{row['found_elsewhere']:.3f}",
            ms(row["search_elsewhere_s"]),
        ]
        for row in result["indexes"]
    ]
    print(tables.markdown(columns, rows))
    rows = [
        [
            f"{row['steps']:.0e}",
            row["search"],
            row["candidates"],
            *map(ms, (row["recall_s"], row["recall_p99_s"], row["search_s"], row["start_s"])),
            tables.percent(row["chosen_anew"]),
            f"{row['warm_s']:.1f}",
            f"{row['resident_bytes'] / 1e6:.0f}",
        ]
        for row in result["banks"]
    ]
    columns = [
        "steps",
        "search",
        "compared",
        "recall, ms",
        "p99",
        "index, ms",
        "start",
        "chosen anew",
        "warm, s",
        "resident, MB",
    ]
    print(f"\n{tables.markdown(columns, rows)}")


if __name__ == "__main__":
    main()
