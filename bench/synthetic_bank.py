# SPDX-License-Identifier: MIT
"""Synthetic banks for benches: rollouts of random steps, each similar to the one before."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from efn_ros.bank import BankWriter
from efn_ros.bank.format import codec
from efn_ros.features.keys import unit
from efn_ros.features.sketches import Projection, quantise
from efn_ros.types import RetrievalQuery, StepContext

PROJECTION = Projection(1024, 256)
LENGTH, HORIZON, ACTION, PROPRIO, LATENT, TOKENS, EMBEDDING = 150, 1, 7, 8, (1, 64), 2, 64
INSTRUCTIONS = 200


def random_rollout(index: int) -> SimpleNamespace:
    """Return a rollout of random steps, each similar to the one before, as `BankWriter.adopt` takes it."""
    content = random_payload(index)
    return SimpleNamespace(record=SimpleNamespace(id=f"r{index}"), content=lambda: content)


def random_payload(index: int) -> bytes:
    """Return the payload of that rollout."""
    rng = np.random.default_rng(index)
    key = quantise(unit(random_walk(rng)))
    sketch = quantise(unit(rng.standard_normal((LENGTH, TOKENS, PROJECTION.output_size), np.float32)))
    chunk = rng.uniform(-1, 1, (LENGTH, HORIZON, ACTION)).astype(np.float32)
    proprio = np.cumsum(rng.normal(0, 0.05, (LENGTH, PROPRIO)), axis=0).astype(np.float32)
    ones, zeros = np.ones(LENGTH, np.uint8), np.zeros(LENGTH, np.uint8)
    tensors = {
        "key.q": key.q,
        "key.scale": key.scale,
        "sketch.q": sketch.q,
        "sketch.scale": sketch.scale,
        **{name: chunk for name in ("base", "executed")},
        **{name: 0 * chunk for name in ("residual", "proposed")},
        "latent": np.cumsum(rng.standard_normal((LENGTH, *LATENT), np.float32), axis=0),
        "proprio": proprio,
        **{name: np.arange(LENGTH, dtype=np.int64) for name in ("stamps_ns", "steps")},
        **{name: zeros for name in ("modes", "proposes", codec.TENSOR_NAMES["clipped"])},
        "recallable": ones,
        "confidence": np.zeros(LENGTH, np.float32),
        **{name: np.zeros(LENGTH, np.int32) for name in ("explored", "source")},
        "source_step": np.full(LENGTH, -1, np.int32),
    }
    about = {"rollout": f"r{index}", "robot": "bench", "task": f"t{index % INSTRUCTIONS}", "policy": "bench"}
    about |= {"instruction": f"task {index % INSTRUCTIONS}", "seed": index, "outcome": 1 + index % 2, "start_ns": index}
    metadata = {"projection": PROJECTION.identity, "cameras": "[]", "explored": '[""]', "source": '[""]'}
    metadata |= codec.rollout_metadata(about | {"length": LENGTH}, instruction_embedding(index))
    return codec.pack(tensors, metadata)


def random_walk(rng: np.random.Generator) -> np.ndarray:
    """Return float32 (LENGTH, d)."""
    return np.cumsum(rng.standard_normal((LENGTH, PROJECTION.output_size), np.float32), axis=0)


def instruction_embedding(index: int) -> np.ndarray:
    """Return the embedding of a rollout's instruction, float32 (EMBEDDING,) at unit norm."""
    return unit(np.random.default_rng([index % INSTRUCTIONS, 7]).standard_normal(EMBEDDING))


def random_query(rng: np.random.Generator, episode: str, step: int, embedding: np.ndarray) -> RetrievalQuery:
    """Return a query of random cues."""
    key = quantise(unit(rng.standard_normal(PROJECTION.output_size, np.float32)))
    latent, proprio = rng.standard_normal(LATENT, np.float32), rng.normal(0, 0.3, PROPRIO).astype(np.float32)
    return RetrievalQuery(StepContext(episode, step, 0, "", ""), key, latent, embedding, proprio)


def write_bank(bank: Path, steps: int) -> dict | None:
    """Append rollouts until a bank holds so many steps; return the rate, None if it held them before."""
    seconds = []
    with BankWriter(bank, projection=PROJECTION) as writer:
        first, total = writer.rollouts, -(-steps // LENGTH)
        for index in tqdm(range(first, total), desc=f"rollouts of {bank.name}", initial=first, total=total):
            rollout = random_rollout(index)
            began = time.perf_counter()
            writer.adopt(rollout)
            seconds.append(time.perf_counter() - began)
    return {"rollouts_a_second": 1 / float(np.mean(seconds)), "n": len(seconds)} if seconds else None
