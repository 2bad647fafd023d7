"""Supervised training of the EFN on lessons from many simulated deployments, in rounds.

Round 0 teaches beside the base policy and its teacher; in every later round the network before it drives half of the
lessons (DAgger), so that it learns in the states to which it leads. For each taught decision a batch draws a bank
of another size out of its deployment's rollouts, so that one set of weights serves any volume of memory.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.efn.lessons import LessonConfig, collect, paths_of
from efn_ros.efn.network import SIZES, Efn, EfnConfig, Present, Recalled
from efn_ros.worlds.deployment import MAX_GAIN_LOG, MAX_OFFSET, MAX_YAW_RAD, arm_coordinates

RESIDUAL_SCALE = 0.1  # of the action's range, where the loss turns from squares to absolute values
SMALLEST_SPREAD = 1e-6
MEASURED = 1024  # decisions at most, in one validation


@dataclass(frozen=True)
class TrainConfig:
    """deployments, updates: one entry a round. volumes: of banks, in rollouts. disguised: share of taught decisions
    that are taught with another arm. identification: weight of telling the deployment. validation: share of the
    deployments that only measure. first_seed: of deployments; those below are for evaluation. remembers: False trains
    a network without memory, to compare with.
    """

    directory: str
    size: str = "small"
    deployments: tuple[int, ...] = (120, 60)
    updates: tuple[int, ...] = (3000, 4000)
    volumes: tuple[int, ...] = (1, 2, 4, 8)
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    disguised: float = 0.8
    identification: float = 0.1
    validation: float = 0.1
    validate_every: int = 250
    seed: int = 0
    first_seed: int = 10_000
    remembers: bool = True
    processes: int = 2
    threads: int = 1
    lessons: LessonConfig = LessonConfig(seed=0)


def train(config: TrainConfig) -> Path:
    """Run, or go on with, all rounds; returns the directory of the checkpoint."""
    directory, checkpoint = Path(config.directory), ""
    seed = config.first_seed
    for round_, (deployments, updates) in enumerate(zip(config.deployments, config.updates, strict=True)):
        seeds = range(seed, seed + deployments)
        gather(config, seeds, directory / "lessons", checkpoint)
        seed += deployments
        target = directory / f"round_{round_}"
        if not (target / "facts.json").exists():
            fit(config, range(config.first_seed, seed), updates, target)
        checkpoint = str(target)
    return Path(checkpoint)


def gather(config: TrainConfig, seeds: range, directory: Path, checkpoint: str) -> None:
    """Lessons of every deployment that are not there yet."""
    missing = [s for s in seeds if not (directory / f"{s}.npz").exists()]
    if not missing:
        return
    with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as executor:
        jobs = [replace(config.lessons, seed=s, checkpoint=checkpoint) for s in missing]
        futures = [executor.submit(collect, job, directory) for job in jobs]
        progress = tqdm(as_completed(futures), total=len(seeds), initial=len(seeds) - len(missing), desc="deployments")
        for future in progress:
            future.result()


@dataclass(frozen=True)
class Arm:
    """How arms answer, one for each row: offset (B, 3), gain and yaw_rad (B,), as in `Deployment`."""

    offset: np.ndarray
    gain: np.ndarray
    yaw_rad: np.ndarray

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Arm:
        """Each shift is there in half of the rows."""
        there, size = rng.random((3, count)) < 0.5, rng.uniform(-1, 1, (5, count))
        return cls(
            offset=MAX_OFFSET * (size[:3] * there[0]).T,
            gain=np.exp(MAX_GAIN_LOG * size[3] * there[1]),
            yaw_rad=MAX_YAW_RAD * size[4] * there[2],
        )

    @classmethod
    def of(cls, coordinates: np.ndarray) -> Arm:
        """From the first five of `Deployment.coordinates`, (B, 5)."""
        offset, gain, yaw = np.split(coordinates.astype(np.float64), (3, 4), axis=1)
        return cls(MAX_OFFSET * offset, np.exp(MAX_GAIN_LOG * gain[:, 0]), MAX_YAW_RAD * yaw[:, 0])

    def after(self, first: Arm) -> Arm:
        """The arm that is told what `first` makes of a command."""
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        x, y, z = first.offset.T
        turned = np.column_stack([cos * x - sin * y, sin * x + cos * y, z])
        offset = self.offset + self.gain[:, None] * turned
        return Arm(offset, self.gain * first.gain, self.yaw_rad + first.yaw_rad)

    def undo(self, actions: np.ndarray) -> np.ndarray:
        """The actions (B, ..., A), float32, whose translation this arm turns into that of `actions`; in [-1, 1]."""
        axes = (slice(None), *(None,) * (actions.ndim - 2))
        x, y, z = np.moveaxis((actions[..., :3] - self.offset[(*axes, slice(None))]) / self.gain[(*axes, None)], -1, 0)
        cos, sin = np.cos(self.yaw_rad)[axes], np.sin(self.yaw_rad)[axes]
        moved = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)
        return np.concatenate([np.clip(moved, -1, 1), actions[..., 3:]], axis=-1).astype(np.float32)


class Lessons:
    """All taught decisions and what their deployments remember, as arrays side by side."""

    def __init__(self, paths: list[Path], config: TrainConfig) -> None:
        self._config = config
        self.parts = [{name: array for name, array in np.load(path).items()} for path in paths]
        names = ("latent", "sketch", "sketch_scale", "proprio", "base", "target", "deployment")
        self.taught = {name: np.concatenate([part[name] for part in self.parts]) for name in names}
        counts = [len(part["base"]) for part in self.parts]
        self.part = np.repeat(np.arange(len(self.parts)), counts)
        self.row = np.concatenate([np.arange(count) for count in counts])

    def __len__(self) -> int:
        return len(self.row)

    def batch(
        self, rows: np.ndarray, rng: np.random.Generator, volume: int = 0, disguised: float = 0.0
    ) -> tuple[Present, Recalled, Tensor, Tensor]:
        """What is taught in `rows`, (B,): steps, target (B, H, A) and coordinates of the deployment (B, 12).

        volume: of every bank; 0 draws one for each row. disguised: share of the rows taught with another arm.
        """
        c = self._config
        k = c.lessons.nearest + c.lessons.context
        columns: dict[str, list[np.ndarray]] = {}
        there = np.zeros((len(rows), k), bool)
        for i, row in enumerate(rows):
            part = self.parts[self.part[row]]
            chosen = self._recall(part, self.row[row], rng, volume or int(rng.choice(c.volumes)))
            there[i, : len(chosen)] = True
            chosen = np.pad(chosen, (0, k - len(chosen)), mode="edge")
            for name in ("executed", "base", "proprio", "proprio_next", "latent", "success"):
                columns.setdefault(name, []).append(part[f"bank_{name}"][chosen])
            columns.setdefault("similarity", []).append(part["similarity"][self.row[row]][chosen])
        memory = {name: np.stack(column) for name, column in columns.items()}
        taught = {name: array[rows] for name, array in self.taught.items()}
        if disguised:
            chosen = np.flatnonzero(rng.random(len(rows)) < disguised)
            self._disguise(memory, taught, chosen, rng)
        tensor = torch.from_numpy
        taught["sketch"] = taught["sketch"] * taught["sketch_scale"][..., None]
        recalled = Recalled(**{name: tensor(array) for name, array in memory.items()}, there=tensor(there))
        present = Present(*(tensor(taught[name]) for name in ("latent", "sketch", "proprio", "base")))
        return present, recalled, tensor(taught["target"]), tensor(taught["deployment"])

    def _disguise(self, memory: dict, taught: dict, rows: np.ndarray, rng: np.random.Generator) -> None:
        """As if the arm had answered otherwise: the same motion, of memory and of the teacher, takes other commands.

        A shift T, drawn at random, comes before that of the deployment: what moved the arm as the command u did is now
        the inverse of T on u. So every taught decision serves for as many arms as there are draws.
        """
        arm = Arm.draw(len(rows), rng)
        for name in ("executed", "base"):  # what the base had said would else betray the shift
            memory[name][rows] = arm.undo(memory[name][rows])
        base, target = taught["base"][rows], taught["target"][rows]
        bound = np.array(self._config.lessons.bound, np.float32)
        taught["target"][rows] = np.clip(arm.undo(base + target) - base, -bound, bound)
        whole = Arm.of(taught["deployment"][rows, :5]).after(arm)
        taught["deployment"][rows, :5] = arm_coordinates(whole.offset, whole.gain, whole.yaw_rad)

    def _recall(self, part: dict, row: int, rng: np.random.Generator, volume: int) -> np.ndarray:
        """Rows of the bank: the nearest, then some at random, out of `volume` of its rollouts."""
        rollouts = np.unique(part["bank_rollout"])
        kept = np.isin(part["bank_rollout"], rng.choice(rollouts, min(volume, len(rollouts)), replace=False))
        candidates, wanted = np.flatnonzero(kept), self._config.lessons
        nearest = candidates[np.argsort(-part["similarity"][row][candidates], kind="stable")[: wanted.nearest]]
        context = rng.choice(candidates, min(wanted.context, len(candidates)), replace=False)
        return np.concatenate([nearest, context])


def fit(config: TrainConfig, seeds: Sequence[int], updates: int, target: Path) -> None:
    """Train from nothing on the lessons of the deployments `seeds` and write checkpoint and facts to `target`."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    held_out = max(1, round(config.validation * len(seeds)))
    measured = seeds[:: len(seeds) // held_out][:held_out]  # of every round some
    files = {seed: paths_of(seed, Path(config.directory) / "lessons") for seed in seeds}
    lessons = Lessons([path for seed in seeds if seed not in measured for path in files[seed]], config)
    checks = Lessons([files[seed][0] for seed in measured], config)
    proprio = np.concatenate([part["bank_proprio"] for part in lessons.parts])
    motion = np.concatenate([part["bank_proprio_next"] for part in lessons.parts]) - proprio
    _, horizon, size = lessons.taught["base"].shape
    efn = Efn(
        EfnConfig(
            horizon=horizon,
            action_size=size,
            latent=lessons.taught["latent"].shape[1:],
            sketch=lessons.taught["sketch"].shape[1:],
            identified=lessons.taught["deployment"].shape[1],
            bound=config.lessons.bound,
            proprio_mean=proprio.mean(axis=0).tolist(),
            proprio_std=_spread(proprio),
            motion_std=_spread(motion),
            dropout=config.dropout,
            remembers=config.remembers,
            **SIZES[config.size],
        )
    )
    optimiser = torch.optim.AdamW(efn.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=updates, pct_start=0.1)
    log = SummaryWriter(target / "log")
    rng, began = np.random.default_rng(config.seed), time.monotonic()
    progress = tqdm(range(updates), desc=f"{target.name}: {len(lessons)} decisions", mininterval=5.0)
    losses = {}
    for update in progress:
        rows = rng.integers(len(lessons), size=config.batch)
        present, recalled, wanted, deployment = lessons.batch(rows, rng, disguised=config.disguised)
        features = efn.train().features(present, recalled)
        corrected = _distance(efn.bounded(efn.actor(features)[0], recalled), wanted)
        identified = F.mse_loss(efn.identify(features), deployment)
        loss = corrected + config.identification * identified
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(efn.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        log.add_scalar("loss/train", corrected.item(), update)
        log.add_scalar("loss/identification", identified.item(), update)
        if (update + 1) % config.validate_every == 0 or update + 1 == updates:
            losses = validate(efn.eval(), checks, config)
            for name, value in losses.items():
                log.add_scalar(f"loss/{name}", value, update)
            progress.set_postfix({"train": f"{corrected.item():.4f}", **{k: f"{v:.4f}" for k, v in losses.items()}})
    log.close()
    efn.save_pretrained(target)
    settings = {name: value for name, value in asdict(config).items() if name != "directory"}
    facts = {"config": settings, "updates": updates, "decisions": len(lessons), "deployments": len(seeds) - held_out}
    facts |= {"measured": len(checks.parts), "parameters": sum(p.numel() for p in efn.parameters())}
    facts |= {"minutes": round((time.monotonic() - began) / 60, 1), "validation": losses}
    (target / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def _spread(values: np.ndarray) -> list[float]:
    """Standard deviation of each column; 1 for one that never changes and so tells nothing."""
    std = values.std(axis=0)
    return np.where(std > SMALLEST_SPREAD, std, 1.0).tolist()


def _distance(residual: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(residual, wanted, beta=RESIDUAL_SCALE)


@torch.inference_mode()
def validate(efn: Efn, checks: Lessons, config: TrainConfig) -> dict[str, float]:
    """Loss on deployments that were not learnt from: without a residual, with banks of each volume, and, last, of
    telling the deployment."""
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(checks), min(len(checks), MEASURED), replace=False)
    losses = {}
    for volume in config.volumes:
        present, recalled, wanted, deployment = checks.batch(rows, rng, volume)
        losses["none"] = _distance(torch.zeros_like(wanted), wanted).item()
        features = efn.features(present, recalled)
        losses[f"volume_{volume}"] = _distance(efn.bounded(efn.actor(features)[0], recalled), wanted).item()
        losses["identification"] = F.mse_loss(efn.identify(features), deployment).item()
    return losses
