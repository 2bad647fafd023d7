# SPDX-License-Identifier: MIT
"""The training samples of many deployments as one dataset, and its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present, Recalled, Recent
from efn_ros.training.augmentation import augment_arms
from efn_ros.training.collection import EXTRA_CAMERAS
from efn_ros.training.config import TrainConfig

MAX_SKETCHES = 3000  # of which principal components are taken
MAX_VALIDATED = 1024  # samples in one validation
SAMPLED = ("latent", "sketch", "sketch_scale", "proprio", "base", "target", "deployment")


@dataclass(frozen=True)
class Batch:
    """B samples: what the network reads, and its targets."""

    present: Present  # the present steps
    recalled: Recalled  # what is recalled for them
    target: Tensor  # residual of the teacher, (B, H, A)
    deployment: Tensor  # coordinates of the deployment, (B, 12)
    recent: Recent | None  # last decisions of the episode; None for a batch without them


class SampleDataset:
    """All samples of some files, with the banks of their deployments.

    Attributes:
        parts: The arrays of each file.
        samples: The samples of all files, one column for each of SAMPLED.
        part: int (N,), index of each sample's file.
        row: int (N,), row of each sample within its file.
    """

    def __init__(self, paths: Sequence[Path], config: TrainConfig) -> None:
        """Read the files that `collection.collect` wrote."""
        self._config = config
        self.parts = [self.read(path) for path in paths]
        self.samples = {name: np.concatenate([part[name] for part in self.parts]) for name in SAMPLED}
        counts = [len(part["base"]) for part in self.parts]
        self.part = np.repeat(np.arange(len(self.parts)), counts)
        self.row = np.concatenate([np.arange(count) for count in counts])

    def __len__(self) -> int:
        return len(self.row)

    def read(self, path: Path) -> dict[str, np.ndarray]:
        """Return the arrays of one file."""
        with np.load(path) as archive:
            part = {name: archive[name] for name in archive.files}
        part["bank_code"] = np.zeros((len(part["bank_base"]), 0), np.float32)
        if EXTRA_CAMERAS in path.name:  # its bank was observed by other cameras than its samples
            part.pop("bank_sketch", None)
        return part

    def to_residual(self, output: Tensor, present: Present, rows: np.ndarray) -> Tensor:
        """Return the residual (B, H, A) of the network's bounded output for the samples `rows`, (B,)."""
        return output

    def encode(self, efn: Efn) -> None:
        """Store the codes of all decisions in the banks; zero where other cameras observed them."""
        for part in self.parts:
            part["bank_code"] = np.zeros((len(part["bank_base"]), efn.config.code_size), np.float32)
            if efn.config.code_size and "bank_sketch" in part:
                sketch = part.pop("bank_sketch") * part.pop("bank_sketch_scale")[..., None]
                part["bank_code"] = efn.code(torch.from_numpy(sketch)).numpy()

    def with_own_cameras(self) -> np.ndarray:
        """Return the indices of the samples whose bank was observed by the same cameras."""
        own = [i for i, part in enumerate(self.parts) if part["bank_code"].any() or not part["bank_code"].shape[1]]
        return np.flatnonzero(np.isin(self.part, own))

    def draw(self, most: int, rng: np.random.Generator) -> np.ndarray:
        """Draw different samples, `most` or all if there are fewer; return their indices."""
        return rng.choice(len(self), min(len(self), most), replace=False)

    def sketches(self, rng: np.random.Generator) -> np.ndarray:
        """Return the sketches of random samples, float32 (N, T d)."""
        rows = self.draw(MAX_SKETCHES, rng)
        sketch = self.samples["sketch"][rows] * self.samples["sketch_scale"][rows][..., None]
        return sketch.reshape(len(rows), -1)

    def batch(
        self,
        rows: np.ndarray,
        rng: np.random.Generator,
        *,
        bank_size: int = 0,
        augmentation_rate: float = 0.0,
        recent_steps: int = 0,
    ) -> Batch:
        """Return the samples `rows`, (B,), each with steps recalled from a random part of its bank.

        Args:
            rows: Indices of samples.
            rng: Of every random draw.
            bank_size: Rollouts of every bank; 0 draws a size for each row.
            augmentation_rate: Fraction of the rows that get another arm.
            recent_steps: Largest number of recent decisions. They are taken from a rollout of the bank, which is then
                not recalled from. 0: none.
        """
        c = self._config
        k = c.collection.nearest_steps + c.collection.random_steps
        columns: dict[str, list[np.ndarray]] = {}
        mask, recent_mask = np.zeros((len(rows), k), bool), np.zeros((len(rows), recent_steps), bool)
        for i, row in enumerate(rows):
            part = self.parts[self.part[row]]
            similarity = part["similarity"][self.row[row]]
            held_out = -1
            if recent_steps:
                held_out = int(rng.choice(part["bank_rollout"]))
                count = int(rng.integers(recent_steps + 1))
                past = _recent_decisions(part, held_out, self.samples["proprio"][row], count)
                recent_mask[i, : len(past)] = True
                past = np.pad(past, (0, recent_steps - len(past)))  # with any row: the mask hides it
                for name in MOTION:
                    columns.setdefault(f"recent_{name}", []).append(part[f"bank_{name}"][past])
            size = bank_size or int(rng.choice(c.bank_sizes))
            chosen = self._recall(part["bank_rollout"], similarity, rng, size, held_out)
            mask[i, : len(chosen)] = True
            chosen = np.pad(chosen, (0, k - len(chosen)), mode="edge")
            for name in (*MOTION, "base", "latent", "code", "success"):
                columns.setdefault(name, []).append(part[f"bank_{name}"][chosen])
            columns.setdefault("similarity", []).append(similarity[chosen])
        memory = {name: np.stack(column) for name, column in columns.items()}
        samples = {name: array[rows] for name, array in self.samples.items()}
        if augmentation_rate:
            augmented = np.flatnonzero(rng.random(len(rows)) < augmentation_rate)
            augment_arms(memory, samples, augmented, c.collection.bound, rng)
        tensor = torch.from_numpy
        samples["sketch"] = samples["sketch"] * samples["sketch_scale"][..., None]
        recent = None
        if recent_steps:
            recent = Recent(**{n: tensor(memory.pop(f"recent_{n}")) for n in MOTION}, mask=tensor(recent_mask))
        return Batch(
            Present(*(tensor(samples[name]) for name in ("latent", "sketch", "proprio", "base"))),
            Recalled(**{name: tensor(array) for name, array in memory.items()}, mask=tensor(mask)),
            tensor(samples["target"]),
            tensor(samples["deployment"]),
            recent,
        )

    def _recall(
        self, rollout: np.ndarray, similarity: np.ndarray, rng: np.random.Generator, bank_size: int, held_out: int
    ) -> np.ndarray:
        """Rows of the bank: the most similar, then random ones, from `bank_size` rollouts other than `held_out`."""
        rollouts = np.unique(rollout)
        rollouts = rollouts[rollouts != held_out]
        chosen = rng.choice(rollouts, min(bank_size, len(rollouts)), replace=False)
        candidates, wanted = np.flatnonzero(np.isin(rollout, chosen)), self._config.collection
        ranked = candidates[np.argsort(-similarity[candidates], kind="stable")]
        random = rng.choice(candidates, min(wanted.random_steps, len(candidates)), replace=False)
        return np.concatenate([ranked[: wanted.nearest_steps], random])


def _recent_decisions(part: dict, rollout: int, proprio: np.ndarray, count: int) -> np.ndarray:
    """Rows of the bank: `count` decisions of a rollout, up to the one with the most similar proprioception."""
    rows = np.flatnonzero(part["bank_rollout"] == rollout)
    nearest = int(np.argmin(np.square(part["bank_proprio"][rows] - proprio).sum(axis=1)))
    return rows[max(0, nearest + 1 - count) : nearest + 1][:count]
