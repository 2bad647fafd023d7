"""The bank at its sizes: recall a step, an episode's start, opening, memory, ingest, and what int8 and projection keep.

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
from types import SimpleNamespace

import faiss
import numpy as np
from tqdm import tqdm

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.format import codec as payloads
from efn_ros.bank.store.snapshot import Contents
from efn_ros.commands._tasks import chosen
from efn_ros.evaluation.run import Fill, fill_bank
from efn_ros.features.keys import mean_max_key, unit
from efn_ros.features.sketches import Projection, quantise
from efn_ros.report import provenance, tables
from efn_ros.retrieval import RecallConfig, Retriever
from efn_ros.retrieval.instruction import likeness
from efn_ros.runtime.factory import make_inference
from efn_ros.runtime.graph import Graph
from efn_ros.types import Observation, PolicyStep, Quantised, StepContext

RESULTS = Path(__file__).parent / "results" / "bank.json"
PROJECTION = Projection(1024, 256)
LENGTH, HORIZON, ACTION, PROPRIO, LATENT, TOKENS, EMBEDDING = 150, 1, 7, 8, (1, 64), 2, 64
INSTRUCTIONS = 200
AIMS = {"recall": 0.2e-3, "start_warm": 5e-3, "start_cold": 50e-3, "open": 0.5, "resident_bytes": 1e9}
EPISODES, DECISIONS = 40, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("bank_bench"), help="for the synthetic banks")
    parser.add_argument("--steps", type=int, nargs="+", default=[10**4, 10**6, 10**7])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    result = {
        **provenance.here(),
        "aims": AIMS,
        "banks": [],
        "fidelity": [synthetic(), real(args.directory)],
        "bytes": bytes_a_step(),
        "filter": filtering(10**5),
    }
    for steps in sorted(args.steps):
        bank = args.directory / f"{steps:.0e}"
        ingest = fill(bank, steps)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # its memory is that of one reader, and nothing is warm
            measured = pool.apply(measure, (bank,))
        result["banks"].append({"steps": steps, **({"ingest": ingest} if ingest else {}), **measured})
    report(result)
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def rollout(index: int) -> bytes:
    """The payload of a rollout of random steps, of which each is near the one before."""
    rng = np.random.default_rng(index)
    key = quantise(unit(drift(rng)))
    sketch = quantise(unit(rng.standard_normal((LENGTH, TOKENS, PROJECTION.output_size), np.float32)))
    chunk = rng.uniform(-1, 1, (LENGTH, HORIZON, ACTION)).astype(np.float32)
    walk = np.cumsum(rng.normal(0, 0.05, (LENGTH, PROPRIO)), axis=0).astype(np.float32)
    ones, zeros = np.ones(LENGTH, np.uint8), np.zeros(LENGTH, np.uint8)
    tensors = {
        "key.q": key.q,
        "key.scale": key.scale,
        "sketch.q": sketch.q,
        "sketch.scale": sketch.scale,
        **{name: chunk for name in ("base", "executed")},
        **{name: 0 * chunk for name in ("residual", "proposed")},
        "latent": np.cumsum(rng.standard_normal((LENGTH, *LATENT), np.float32), axis=0),
        "proprio": walk,
        **{name: np.arange(LENGTH, dtype=np.int64) for name in ("stamps_ns", "steps")},
        **{name: zeros for name in ("modes", "proposes", "cut")},
        "recallable": ones,
        "confidence": np.zeros(LENGTH, np.float32),
        **{name: np.zeros(LENGTH, np.int32) for name in ("explored", "source")},
        "source_step": np.full(LENGTH, -1, np.int32),
    }
    about = {"rollout": f"r{index}", "robot": "bench", "task": f"t{index % INSTRUCTIONS}", "policy": "bench"}
    about |= {"instruction": f"task {index % INSTRUCTIONS}", "seed": index, "outcome": 1 + index % 2, "start_ns": index}
    metadata = {"projection": PROJECTION.identity, "cameras": "[]", "explored": '[""]', "source": '[""]'}
    return payloads.pack(tensors, metadata | payloads.told(about | {"length": LENGTH}, embedding(index)))


def drift(rng: np.random.Generator) -> np.ndarray:
    """float32 (LENGTH, d)."""
    return np.cumsum(rng.standard_normal((LENGTH, PROJECTION.output_size), np.float32), axis=0)


def embedding(index: int) -> np.ndarray:
    return unit(np.random.default_rng([index % INSTRUCTIONS, 7]).standard_normal(EMBEDDING))


def fill(bank: Path, steps: int) -> dict | None:
    """As many rollouts as hold so many steps; how fast they went in, if any had to."""
    with BankWriter(bank, projection=PROJECTION) as writer:
        first, wanted = writer.rollouts, -(-steps // LENGTH)
        took = []
        for index in tqdm(range(first, wanted), desc=f"rollouts of {bank.name}", initial=first, total=wanted):
            content = rollout(index)
            made = SimpleNamespace(record=SimpleNamespace(id=f"r{index}"), content=lambda: content)  # noqa: B023
            began = time.perf_counter()
            writer.adopt(made)
            took.append(time.perf_counter() - began)
    return {"rollouts_a_second": 1 / float(np.mean(took)), "n": len(took)} if took else None


def measure(bank: Path) -> dict:
    """In a fresh process."""
    began = time.perf_counter()
    reader = BankReader(bank)
    opened = time.perf_counter() - began
    rng, rollouts = np.random.default_rng(0), reader.snapshot().rollouts
    retriever = Retriever(reader, RecallConfig(k=16, context=16))
    retriever.begin("imports", embedding(0))
    cold, warm, recall, compare, files = [], [], [], [], [r.path for r in rollouts]
    for episode in range(EPISODES):
        asked = embedding(1 + episode % (INSTRUCTIONS - 1))
        if episode < 10:
            forget_pages(retriever, rollouts, asked)
        began = time.perf_counter()
        retriever.begin(f"first-{episode}", asked)
        (cold if episode < 10 else []).append(time.perf_counter() - began)
        began = time.perf_counter()
        retriever.begin(f"again-{episode}", asked)
        warm.append(time.perf_counter() - began)
        candidates = retriever._candidates
        for step in range(DECISIONS):
            query = look(rng, f"again-{episode}", step, asked)
            began = time.perf_counter()
            retriever.recall(query)
            recall.append(time.perf_counter() - began)
            began = time.perf_counter()
            candidates.similarity(query)
            compare.append(time.perf_counter() - began)
    floats = np.concatenate([s.key * s.key_norm[:, None] for s in (r.steps for r in candidates.rollouts)])
    vector = floats[0].copy()
    size = sum(path.stat().st_size for path in files)
    catalogue = sum(path.stat().st_size for path in bank.glob("catalogue.sqlite*"))
    return {
        "rollouts": len(rollouts),
        "candidates": len(candidates.row),
        "open_s": opened,
        "start_cold_s": float(np.median(cold)),
        "start_warm_s": float(np.median(warm)),
        "recall_s": float(np.median(recall)),
        "recall_p99_s": float(np.percentile(recall, 99)),
        "similarity_s": float(np.median(compare)),
        "float_product_s": float(np.median(timed(lambda: floats @ vector))),
        "n": len(recall),
        "resident_bytes": resident_bytes(),
        "payload_bytes_a_step": size / len(rollouts) / LENGTH,
        "catalogue_bytes_a_step": catalogue / len(rollouts) / LENGTH,
    }


def resident_bytes() -> int:
    """The most that this process has held, NumPy and faiss with it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_pages(retriever: Retriever, rollouts: tuple, asked: np.ndarray) -> None:
    """What the next episode reads is no longer in the machine's memory."""
    retriever.begin("to find out", asked)
    for stored in retriever._candidates.rollouts:
        stored.cache._steps.clear()
        descriptor = os.open(stored.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def look(rng: np.random.Generator, episode: str, step: int, asked: np.ndarray) -> PolicyStep:
    key = quantise(unit(rng.standard_normal(PROJECTION.output_size, np.float32)))
    latent, proprio = rng.standard_normal(LATENT, np.float32), rng.normal(0, 0.3, PROPRIO).astype(np.float32)
    none = Quantised(np.zeros((1, 1), np.int8), np.ones(1, np.float32))
    base = np.zeros((HORIZON, ACTION), np.float32)
    return PolicyStep(StepContext(episode, step, 0, "", ""), base, key, none, latent, asked, proprio)


def filtering(rollouts: int) -> dict:
    """The instruction filter alone, of as many instructions as in the banks and all different; a faiss index beside."""
    result = {}
    for distinct in (INSTRUCTIONS, rollouts):
        embeddings = unit(np.random.default_rng(0).standard_normal((distinct, EMBEDDING), np.float32))
        contents = Contents(instruction=np.arange(rollouts, dtype=np.int32) % distinct, embeddings=embeddings)
        index = faiss.IndexFlatIP(EMBEDDING)
        index.add(embeddings)
        result[str(distinct)] = {
            "filter_s": float(np.median(timed(lambda: likeness(contents, embeddings[0])))),  # noqa: B023
            "faiss_flat_s": float(np.median(timed(lambda: index.search(embeddings[:1], 50)))),  # noqa: B023
        }
    return {"rollouts": rollouts, "distinct": result}


def real(directory: Path) -> dict:
    """As `synthetic`, of what the packaged policy sees in simulation, three of each task, with its projection."""
    graph = Graph.load("libero_sim", ())
    full, inference = [], make_inference(graph.parameters("vla_policy"))
    tasks = tuple(chosen(graph.parameters("libero_bridge"), None))
    fill_bank(Fill("libero_sim", None, tasks, 3 * len(tasks)), str(directory))
    for stored in BankReader(directory / "banks" / "as-trained").snapshot().rollouts:
        content, record, arrays = stored.content(), stored.record, stored.arrays
        for row, step in enumerate(arrays.steps.tolist()):
            context = StepContext(record.id, step, 0, record.task, record.instruction)
            images = {camera: payloads.decode_image(content, row, camera) for camera in stored.cameras()}
            inference(Observation(context, images, arrays.proprio[row]))
            full.append(mean_max_key(inference.output.visual))
    count, width = inference.output.visual.shape
    found = kept(np.stack(full), inference.projection, np.random.default_rng(0))
    return found | {"tokens": f"the packaged policy's, {count} x {width}", "keys": len(full)}


def synthetic() -> dict:
    """Recall@10 of int8 against the float projection, and of that against the cosine of full keys, on tokens with
    structure: 16 tokens of 4096 numbers, that are a mixture of 24 patterns which drift along rollouts."""
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
    return kept(full, projection, rng) | {"tokens": "synthetic, 16 x 4096", "keys": len(full)}


def bytes_a_step() -> dict[str, int]:
    """Of the paper's tokens, 256 x 4096: as they are in half precision, projected as sketch, pooled as key."""
    tokens, projection = np.ones((256, 4096), np.float16), Projection(4096, 256)
    size = lambda quantised: quantised.q.nbytes + quantised.scale.nbytes  # noqa: E731
    return {"raw": tokens.nbytes, "sketch": size(projection.sketch(tokens)), "key": size(projection.describe(tokens))}


def kept(full: np.ndarray, projection: Projection, rng: np.random.Generator) -> dict:
    """Shares of the ten nearest, over at most 300 queries among the keys."""
    projected = unit(full @ projection.matrix)
    small = quantise(projected).dequantise()
    queries = rng.choice(len(full), min(300, len(full)), replace=False)
    best = {
        name: np.argsort(-unit(keys)[queries] @ unit(keys).T, axis=1)[:, 1:11]
        for name, keys in (("full", full), ("float", projected), ("int8", small))
    }
    share = lambda a, b: float(np.mean([len(set(x) & set(y)) / 10 for x, y in zip(best[a], best[b], strict=True)]))  # noqa: E731
    return {"int8_of_float": share("int8", "float"), "projected_of_full": share("int8", "full")}


def timed(function: Callable[[], object], repeats: int = 200) -> list[float]:
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)
    return took


def report(result: dict) -> None:
    ms = lambda seconds: f"{1e3 * seconds:.2f}"  # noqa: E731
    rows = [
        [
            f"{b['steps']:.0e}",
            b["rollouts"],
            ms(b["recall_s"]),
            ms(b["recall_p99_s"]),
            ms(b["similarity_s"]),
            ms(b["float_product_s"]),
            ms(b["start_warm_s"]),
            ms(b["start_cold_s"]),
            ms(b["open_s"]),
            f"{b['resident_bytes'] / 1e6:.0f}",
            f"{b['ingest']['rollouts_a_second']:.0f}" if "ingest" in b else "-",
        ]
        for b in result["banks"]
    ]
    columns = ["steps", "rollouts", "recall, ms", "p99", "similarity", "float32 product", "start, warm", "start, cold"]
    print(tables.markdown([*columns, "open", "resident, MB", "rollouts/s in"], rows))
    print(f"\n{json.dumps(result['fidelity'])}\n{json.dumps(result['filter'])}")


if __name__ == "__main__":
    main()
