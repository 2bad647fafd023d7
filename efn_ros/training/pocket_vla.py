"""Behaviour cloning of PocketVLA from a simulator's scripted experts, in rounds (DAgger).

Round 0 shows the expert under noise; every later round lets the student drive and asks the expert what it would have
done. After each round's data the network trains on all of it. The policy sees images, instruction and end-effector
state only; where hand, object and goal appear in the images teaches three of its keypoints where to look.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from efn_ros.policies.pocket_vla.model import PocketVla, PocketVlaConfig
from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy
from efn_ros.policies.pocket_vla.processor import PocketVlaProcessor, train_tokenizer
from efn_ros.training.demonstrations import Demonstrations, demonstrate
from efn_ros.worlds import TeachingWorld
from efn_ros.worlds.registry import make_world, world_tasks

# What a robot's network has other than the defaults: its cameras, its proprioception (where it lies and how far it
# varies, in its own units) and its actions.
NETWORKS = {
    "metaworld": {},
    "libero": {
        "cameras": ("agentview", "wrist"),
        "proprio_size": 8,
        "proprio_mean": (-0.05, 0.05, 1.0, 3.1, 0.0, 0.0, 0.03, -0.03),
        "proprio_std": (0.1, 0.15, 0.1, 0.3, 0.5, 0.3, 0.015, 0.015),
        "action_low": (-1.0,) * 7,
        "action_high": (1.0,) * 7,
    },
}


@dataclass(frozen=True)
class TrainConfig:
    """tasks: none are all of the world's. episodes, updates: one entry a round, episodes for each task. seed: of
    everything. processes: that collect. threads: of training. save_every: updates after which an interrupted run goes
    on."""

    directory: str
    world: str = "metaworld"
    tasks: tuple[str, ...] = ()
    episodes: tuple[int, ...] = (60, 30, 30, 30, 40)
    updates: tuple[int, ...] = (1500, 600, 600, 600, 3200)
    batch: int = 128
    learning_rate: float = 1e-3
    warm_up: int = 200
    cool_down: float = 0.4  # share of all updates over which the learning rate falls to zero
    weight_decay: float = 1e-3
    grounding: float = 0.03
    ema: float = 0.998
    save_every: int = 250
    seed: int = 0
    first_seed: int = 100_000  # scenes of demonstrations; evaluation uses seeds below
    processes: int = 2
    threads: int = 2


def train(config: TrainConfig) -> Path:
    """Run, or go on with, all rounds; returns the directory of the checkpoint."""
    directory = Path(config.directory)
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    told = world_tasks(config.world)
    tokenizer = train_tokenizer(told.values(), 512)
    processor = PocketVlaProcessor(tokenizer)
    network = PocketVlaConfig(vocabulary_size=len(tokenizer), **NETWORKS[config.world])
    model = PocketVla(network).to(memory_format=torch.channels_last).train()
    average = deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    run = Run(directory / "state.safetensors", model, average, optimiser)
    run.load()
    tokens = tokenizer(list(told.values()), padding=True, return_tensors="pt")
    checkpoint, total = directory / "checkpoint", sum(config.updates)
    for round_, episodes in enumerate(config.episodes):
        end = sum(config.updates[: round_ + 1])
        if run.done >= end:
            continue
        if run.done == end - config.updates[round_]:
            average.save_pretrained(checkpoint)
            processor.save_pretrained(checkpoint)
        data = collect(config, round_, episodes, checkpoint if round_ else None)
        progress = tqdm(total=config.updates[round_], initial=run.done - end + config.updates[round_], mininterval=5.0)
        progress.set_description(f"round {round_}: {len(data)} decisions")
        shown, started = None, time.monotonic()
        while run.done < end:
            rows = np.random.default_rng([config.seed, run.done]).integers(len(data), size=config.batch)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, run.done, total)
            loss = losses(model, data, rows, tokens, config)
            optimiser.zero_grad(set_to_none=True)
            sum(loss.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            run.done += 1
            with torch.no_grad():
                rate = min(config.ema, run.done / (run.done + 10))
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - rate)
            action = loss["action"].item()
            shown = action if shown is None else 0.98 * shown + 0.02 * action
            progress.update()
            progress.set_postfix(action=f"{shown:.4f}", grounding=f"{loss['grounding'].item():.3f}")
            if run.done % config.save_every == 0 or run.done == end:
                run.minutes += (time.monotonic() - started) / 60
                started = time.monotonic()
                run.save()
    average.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    settings = {name: value for name, value in asdict(config).items() if name != "directory"}
    facts = {"config": settings, "updates": run.done, "minutes_of_updates": round(run.minutes, 1)}
    (directory / "train.json").write_text(json.dumps(facts, indent=1) + "\n")
    return checkpoint


def learning_rate(config: TrainConfig, update: int, total: int) -> float:
    """Constant after a warm-up, then a cosine to zero over the last part."""
    cooling = max(0.0, update / total - (1 - config.cool_down)) / config.cool_down
    return config.learning_rate * min(1.0, (update + 1) / config.warm_up) * 0.5 * (1 + math.cos(math.pi * cooling))


@dataclass
class Run:
    """What an interrupted training needs to go on: one safetensors file, replaced as a whole."""

    file: Path
    model: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    done: int = 0
    minutes: float = 0.0

    def save(self) -> None:
        tensors = {}
        for name in ("model", "average"):
            tensors |= {f"{name}.{key}": value.contiguous() for key, value in getattr(self, name).state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value.contiguous() for key, value in state.items()}
        partial = self.file.with_suffix(".tmp")
        save_file(tensors, partial, metadata={"done": str(self.done), "minutes": str(self.minutes)})
        partial.replace(self.file)

    def load(self) -> None:
        """Nothing, if there is no file."""
        if not self.file.exists():
            return
        with safe_open(self.file, framework="pt") as file:
            facts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        self.done, self.minutes = int(facts["done"]), float(facts["minutes"])
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            if part == "optimiser":
                index, _, key = key.partition(".")
                states.setdefault(int(index), {})[key] = value
        for name in ("model", "average"):
            own = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
            getattr(self, name).load_state_dict(own)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": states})


def losses(model, data: Demonstrations, rows: np.ndarray, tokens, config: TrainConfig) -> dict[str, torch.Tensor]:
    """L1 to the expert's chunk, and cross-entropy of each camera's first keypoints with where hand, object and goal
    appear to it; what is out of the picture does not count."""
    images = torch.from_numpy(data.images[rows])  # (B, C, S, S, 3): already channels last
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2).to(torch.bfloat16) / 127.5 - 1.0
    task = torch.from_numpy(data.task[rows])
    with torch.autocast("cpu", torch.bfloat16):
        text = model.embed_text(tokens["input_ids"], tokens["attention_mask"])[task]
        visual, points, heatmaps = model.see(pixels.unflatten(0, images.shape[:2]), text)
        latent = model.intend(visual, points, torch.from_numpy(data.proprio[rows]), text)
        action = model.decode(latent, visual)
    side = round(heatmaps.shape[-1] ** 0.5)
    target = torch.from_numpy(heat(data.landmarks[rows], side))
    entropy = -(target * heatmaps[:, :, : target.shape[2]].log_softmax(-1)).sum(-1)
    return {
        "action": (action - torch.from_numpy(data.actions[rows])).abs().mean(),
        "grounding": config.grounding * entropy.mean(),
    }


def heat(points: np.ndarray, side: int) -> np.ndarray:
    """Positions (..., 2) in [-1, 1] as weights float32 (..., side * side) on the four nearest cells, whose expectation
    is the position; all zero where it lies outside of their centres."""
    cell = (points + 1) / 2 * side - 0.5
    x, y = (np.clip(1 - np.abs(cell[..., i, None] - np.arange(side)), 0, None) for i in (0, 1))
    inside = ((cell >= 0) & (cell <= side - 1)).all(-1)[..., None]
    return (y[..., :, None] * x[..., None, :]).reshape(*points.shape[:-1], -1).astype(np.float32) * inside


def collect(config: TrainConfig, round_: int, episodes: int, student: Path | None) -> Demonstrations:
    """All demonstrations up to this round; those of this round are made where they are not on disk yet."""
    directory = Path(config.directory) / "demonstrations"
    directory.mkdir(exist_ok=True)
    tasks = config.tasks or tuple(world_tasks(config.world))
    name = "{}_{}.npz".format
    wanted = {task: directory / name(round_, task.replace("/", ".")) for task in tasks}
    missing = {task: path for task, path in wanted.items() if not path.exists()}
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.processes, mp_context=context) as pool:
            seeds = range(config.first_seed + 1000 * round_, config.first_seed + 1000 * round_ + episodes)
            jobs = [pool.submit(_collect_task, config.world, *wanted, seeds, student) for wanted in missing.items()]
            for job in tqdm(as_completed(jobs), total=len(jobs), desc=f"round {round_}: demonstrations"):
                tqdm.write(job.result())
    paths = [directory / name(r, task.replace("/", ".")) for r in range(round_ + 1) for task in tasks]
    return Demonstrations.concatenate([_read(path) for path in paths])


def _collect_task(name: str, task: str, path: Path, seeds: range, student: Path | None) -> str:
    world = _world(name)
    policy = PocketVlaPolicy.from_pretrained(student, threads=1) if student else None
    parts = [demonstrate(world, task, seed, PocketVlaConfig().horizon, policy) for seed in seeds]
    data = Demonstrations.concatenate(parts)
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, **{f.name: getattr(data, f.name) for f in fields(Demonstrations)})
    partial.rename(path)
    return f"{task}: {np.mean([p.succeeded[0] for p in parts]):.0%} of {len(parts)} episodes succeeded"


@lru_cache(maxsize=1)  # one a process: building its scenes takes seconds
def _world(name: str) -> TeachingWorld:
    return make_world(name)


def _read(path: Path) -> Demonstrations:
    with np.load(path) as arrays:
        return Demonstrations(**{f.name: arrays[f.name] for f in fields(Demonstrations)})
