# SPDX-License-Identifier: MIT
"""Synthetic samples of deployments, and settings of a short training on them."""

from __future__ import annotations

import numpy as np

from efn_ros.training.config import CollectionConfig, TrainConfig
from efn_ros.worlds.deployment import MAX_OFFSET

H, A, P, L, DZ, T, D = 2, 2, 3, 1, 4, 2, 3
BOUND = (0.5, 0.5)


def deployment(path, seed, rollouts=8, length=12, samples=24):
    """Write samples with a hidden offset on every command, which only motion reveals."""
    rng = np.random.default_rng(seed)
    offset = rng.uniform(-MAX_OFFSET, MAX_OFFSET, A)
    count = rollouts * length
    executed = rng.uniform(-1, 1, (count, H, A))
    proprio = rng.normal(size=(count, P))
    motion = np.pad((executed + offset).mean(axis=1), ((0, 0), (0, P - A)))
    arrays = {
        "bank_rollout": np.repeat(np.arange(rollouts), length), "bank_executed": executed, "bank_base": executed,
        "bank_proprio": proprio, "bank_proprio_next": proprio + 0.05 * motion,
        "bank_executed_before": np.zeros((count, H, A)), "bank_proprio_before": proprio,
        "bank_latent": rng.normal(size=(count, DZ)), "bank_success": np.ones(count),
        "latent": rng.normal(size=(samples, L, DZ)), "proprio": rng.normal(size=(samples, P)),
        "base": rng.uniform(-1, 1, (samples, H, A)), "target": np.broadcast_to(-offset, (samples, H, A)),
        "similarity": rng.uniform(size=(samples, count)), "sketch_scale": np.ones((samples, T)),
        "bank_sketch_scale": np.ones((count, T)),
        "deployment": np.tile(np.pad(offset / MAX_OFFSET, (0, 10)), (samples, 1)),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    sketch = rng.integers(-9, 9, (samples, T, D), dtype=np.int8)
    bank_sketch = rng.integers(-9, 9, (count, T, D), dtype=np.int8)
    np.savez(
        path,
        sketch=sketch,
        bank_sketch=bank_sketch,
        **{name: array.astype(np.float32) for name, array in arrays.items()},
    )
    return path


def config(directory, **changes) -> TrainConfig:
    """Return settings of a short training without augmentation."""
    settings = {
        "batch_size": 32,
        "dropout": 0.0,
        "augmentation_rate": 0.0,
        "code_size": 2,
        "trust_updates": 3,
        "validate_every": 100,
        "collection": CollectionConfig(seed=0, bound=BOUND),
    }
    return TrainConfig(str(directory), **{**settings, **changes})
