# SPDX-License-Identifier: MIT
"""The bank by size: recall, start of an episode, opening, memory, ingest, and the fidelity of int8 and projection.

Run as `./efn shell python bench/bank.py`. It fills synthetic banks in `--directory` (17 GB for 10^4 to 10^7 steps;
a second run finds them there). Each size is measured in a process of its own, each figure beside a baseline of the same
run. Prints tables, writes results/bank.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from synthetic_bank import EMBEDDING, INSTRUCTIONS, LENGTH, instruction_embedding, random_query, write_bank

from efn_ros.bank import BankReader
from efn_ros.bank.format import codec
from efn_ros.bank.store.snapshot import Contents
from efn_ros.commands._options import select_tasks
from efn_ros.evaluation.banks import BankFill, bank_directory, fill_bank
from efn_ros.features.keys import mean_max_key, unit
from efn_ros.features.sketches import Projection, quantise
from efn_ros.report import provenance
from efn_ros.report.blocks.bank import bank_block
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.retrieval.rollouts import instruction_similarity
from efn_ros.runtime.factory import make_inference
from efn_ros.runtime.graph import Graph
from efn_ros.types import Observation, RetrievalQuery, StepContext

RESULTS = Path(__file__).parent / "results" / "bank.json"
GRAPH = "metaworld_sim"
AIMS = {"recall": 0.2e-3, "start_warm": 5e-3, "start_cold": 50e-3, "open": 0.5, "resident_bytes": 1e9}
EPISODES, COLD_EPISODES, DECISIONS = 40, 10, 50


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("bank_bench"), help="for the synthetic banks")
    parser.add_argument("--steps", type=int, nargs="+", default=[10**4, 10**6, 10**7])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    result = {
        **provenance.here(),
        "aims": AIMS,
        "banks": [],
        "fidelity": [synthetic_fidelity(), packaged_fidelity(args.directory)],
        "bytes": bytes_a_step(),
        "filter": measure_filter(10**5),
    }
    for steps in sorted(args.steps):
        bank = args.directory / f"{steps:.0e}"
        ingest = write_bank(bank, steps)
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its memory is that of one reader alone
            measured = pool.apply(measure_bank, (bank,))
        result["banks"].append({"steps": steps, **({"ingest": ingest} if ingest else {}), **measured})
    print(bank_block(result))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def measure_bank(bank: Path) -> dict:
    """Measure opening, start of an episode and recall; to be run in a fresh process."""
    began = time.perf_counter()
    reader = BankReader(bank)
    opened = time.perf_counter() - began
    rng, rollouts = np.random.default_rng(0), reader.snapshot().rollouts
    retriever = Retriever(reader, RetrievalConfig(k=16, random_steps=16))
    retriever.begin(random_query(rng, "imports", 0, instruction_embedding(0)))
    cold, warm, recall, compare = [], [], [], []
    for episode in range(EPISODES):
        embedding = instruction_embedding(1 + episode % (INSTRUCTIONS - 1))
        if episode < COLD_EPISODES:
            drop_caches(retriever, random_query(rng, f"chooses-{episode}", 0, embedding))
            cold.append(time_start(retriever, random_query(rng, f"cold-{episode}", 0, embedding)))
        else:
            retriever.begin(random_query(rng, f"loads-{episode}", 0, embedding))
        warm.append(time_start(retriever, random_query(rng, f"warm-{episode}", 0, embedding)))
        candidates = retriever._candidates
        for step in range(DECISIONS):
            query = random_query(rng, f"warm-{episode}", step, embedding)
            began = time.perf_counter()
            retriever.recall(query)
            recall.append(time.perf_counter() - began)
            began = time.perf_counter()
            candidates.similarity(query)
            compare.append(time.perf_counter() - began)
    floats = np.concatenate([s.key * s.key_norm[:, None] for s in (r.steps for r in candidates.rollouts)])
    vector = floats[0].copy()
    size = sum(rollout.path.stat().st_size for rollout in rollouts)
    catalogue = sum(path.stat().st_size for path in bank.glob("catalogue.sqlite*"))
    return {
        "rollouts": len(rollouts),
        "candidates": len(candidates.rows),
        "open_s": opened,
        "start_cold_s": float(np.median(cold)),
        "start_warm_s": float(np.median(warm)),
        "recall_s": float(np.median(recall)),
        "recall_p99_s": float(np.percentile(recall, 99)),
        "similarity_s": float(np.median(compare)),
        "float_product_s": float(np.median(time_calls(lambda: floats @ vector))),
        "n": len(recall),
        "resident_bytes": resident_bytes(),
        "payload_bytes_a_step": size / len(rollouts) / LENGTH,
        "catalogue_bytes_a_step": catalogue / len(rollouts) / LENGTH,
    }


def time_start(retriever: Retriever, query: RetrievalQuery) -> float:
    """Return the seconds that the start of a query's episode takes."""
    began = time.perf_counter()
    retriever.begin(query)
    return time.perf_counter() - began


def drop_caches(retriever: Retriever, query: RetrievalQuery) -> None:
    """Remove what an episode with this instruction reads from the retriever's and the system's caches."""
    retriever.begin(query)
    for stored in retriever._candidates.rollouts:
        stored.cache._steps.clear()
        descriptor = os.open(stored.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resident_bytes() -> int:
    """Return the peak resident memory of this process, NumPy and faiss included."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_filter(rollouts: int) -> dict:
    """Measure the instruction filter alone, beside a faiss index: few distinct instructions, and all distinct."""
    result = {}
    for distinct in (INSTRUCTIONS, rollouts):
        embeddings = unit(np.random.default_rng(0).standard_normal((distinct, EMBEDDING), np.float32))
        contents = Contents(instruction=np.arange(rollouts, dtype=np.int32) % distinct, embeddings=embeddings)
        index = faiss.IndexFlatIP(EMBEDDING)
        index.add(embeddings)
        result[str(distinct)] = {
            "filter_s": float(np.median(time_calls(lambda: instruction_similarity(contents, embeddings[0])))),  # noqa: B023
            "faiss_flat_s": float(np.median(time_calls(lambda: index.search(embeddings[:1], 50)))),  # noqa: B023
        }
    return {"rollouts": rollouts, "distinct": result}


def packaged_fidelity(directory: Path) -> dict:
    """Measure `fidelity` on the tokens of the packaged policy in simulation, three rollouts of each task."""
    graph = Graph.load(GRAPH)
    inference, full = make_inference(graph.parameters("vla_policy")), []
    tasks = tuple(select_tasks(graph.world, None))
    fill_bank(BankFill(GRAPH, None, tasks, 3 * len(tasks)), str(directory))
    for stored in BankReader(bank_directory(directory, None)).snapshot().rollouts:
        content, record, arrays = stored.content(), stored.record, stored.arrays
        for row, step in enumerate(arrays.steps.tolist()):
            context = StepContext(record.id, step, 0, record.task, record.instruction)
            images = {camera: codec.decode_image(content, row, camera) for camera in stored.cameras()}
            tokens = inference.policy.infer(Observation(context, images, arrays.proprio[row])).visual
            full.append(mean_max_key(tokens))
    count, width = tokens.shape
    found = fidelity(np.stack(full), inference.projection, np.random.default_rng(0))
    return found | {"tokens": f"the packaged policy's, {count} x {width}", "keys": len(full)}


def synthetic_fidelity() -> dict:
    """Measure `fidelity` on structured tokens (16, 4096): mixtures of 24 patterns that drift along rollouts."""
    rng, projection = np.random.default_rng(0), Projection(4096, 256)
    patterns = rng.standard_normal((24, 4096), np.float32)
    mixture = rng.standard_normal((16, 24), np.float32)
    full = []
    for _ in range(20):
        drift = np.cumsum(rng.normal(0, 0.15, (LENGTH, 16, 24)), axis=0).astype(np.float32)
        for weights in mixture + drift + rng.normal(0, 0.7, (1, 16, 24)).astype(np.float32):
            tokens = weights @ patterns + 2 * rng.standard_normal((16, 4096), np.float32)
            full.append(mean_max_key(tokens))
    full = np.stack(full)
    return fidelity(full, projection, rng) | {"tokens": "synthetic, 16 x 4096", "keys": len(full)}


def fidelity(full: np.ndarray, projection: Projection, rng: np.random.Generator) -> dict:
    """Return recall@10 of int8 against float32 projections, and of projections against full keys (N, D)."""
    projected = unit(full @ projection.matrix)
    small = quantise(projected).dequantise()
    queries = rng.choice(len(full), min(300, len(full)), replace=False)
    best = {
        name: np.argsort(-unit(keys)[queries] @ unit(keys).T, axis=1)[:, 1:11]
        for name, keys in (("full", full), ("float", projected), ("int8", small))
    }

    def shared(a: str, b: str) -> float:
        return float(np.mean([len(set(x) & set(y)) / 10 for x, y in zip(best[a], best[b], strict=True)]))

    return {"int8_of_float": shared("int8", "float"), "projected_of_full": shared("int8", "full")}


def bytes_a_step() -> dict[str, int]:
    """Return bytes of the paper's tokens, 256 x 4096: in half precision, projected as sketch, pooled as key."""
    tokens, projection = np.ones((256, 4096), np.float16), Projection(4096, 256)
    size = lambda quantised: quantised.q.nbytes + quantised.scale.nbytes  # noqa: E731
    return {"raw": tokens.nbytes, "sketch": size(projection.sketch(tokens)), "key": size(projection.describe(tokens))}


def time_calls(function: Callable[[], object], repeats: int = 200) -> list[float]:
    """Return the seconds of each call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
