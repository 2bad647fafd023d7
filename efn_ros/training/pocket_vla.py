"""Behaviour cloning of PocketVLA from a simulator's scripted experts, in rounds (DAgger).

Round 0 shows the expert under noise; every later round lets the student drive and asks the expert what it would have
done. After each round's data the network trains on all of it. The policy sees images, instruction and end-effector
state only; where hand, object and goal appear in the images teaches three of its keypoints where to look.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from efn_ros.policies.pocket_vla.model import PocketVla, PocketVlaConfig
from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy
from efn_ros.policies.pocket_vla.processor import PocketVlaProcessor, train_tokenizer
from efn_ros.training.demonstrations import Demonstrations, demonstrate
from efn_ros.training.loop import LoopConfig, TrainingLoop
from efn_ros.worlds import TrainingWorld
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
class PocketVlaTrainConfig:
    """Settings of `train_pocket_vla`."""

    directory: str
    world: str = "metaworld"
    tasks: tuple[str, ...] = ()  # empty: all of the world's
    episodes: tuple[int, ...] = (60, 30, 30, 30, 40)  # for each task, one entry a round
    updates: tuple[int, ...] = (1500, 600, 600, 600, 3200)  # one entry a round
    batch_size: int = 128
    learning_rate: float = 1e-3
    warm_up: int = 200  # updates
    cool_down: float = 0.4  # share of all updates over which the learning rate falls to zero
    weight_decay: float = 1e-3
    grounding_weight: float = 0.03
    average_decay: float = 0.998  # of the moving average of the weights, which is the policy
    save_every: int = 250  # updates
    seed: int = 0
    first_seed: int = 100_000  # scenes of demonstrations; evaluation uses seeds below
    processes: int = 2  # that collect
    threads: int = 2  # of training


def train_pocket_vla(config: PocketVlaTrainConfig) -> Path:
    """Run, or go on with, all rounds.

    Returns:
        The directory of the checkpoint.

    Raises:
        ValueError: The directory holds a training with other settings.
    """
    directory = Path(config.directory)
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    instructions = world_tasks(config.world)
    tokenizer = train_tokenizer(instructions.values(), 512)
    processor = PocketVlaProcessor(tokenizer)
    network = PocketVlaConfig(vocabulary_size=len(tokenizer), **NETWORKS[config.world])
    model = PocketVla(network).to(memory_format=torch.channels_last).train()
    average = deepcopy(model)
    averaged = dict(average.named_parameters())
    settings = {name: value for name, value in asdict(config).items() if name not in ("directory", "processes")}
    how = LoopConfig(
        sum(config.updates),
        lambda update: learning_rate(config, update),
        config.weight_decay,
        config.seed,
        config.save_every,
        settings,
    )
    loop = TrainingLoop(dict(model.named_parameters()), how, directory / "state.safetensors", extra=averaged)
    tokens = tokenizer(list(instructions.values()), padding=True, return_tensors="pt")
    checkpoint = directory / "checkpoint"

    def save() -> None:
        average.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)

    @torch.no_grad()
    def average_weights(done: int) -> None:
        decay = min(config.average_decay, done / (done + 10))
        for name, fast in model.named_parameters():
            averaged[name].lerp_(fast, 1 - decay)

    for round_, episodes in enumerate(config.episodes):
        begin, end = sum(config.updates[:round_]), sum(config.updates[: round_ + 1])
        if loop.update >= end:
            continue
        if loop.update == begin:
            save()  # the student of this round
        data = collect(config, round_, episodes, checkpoint if round_ else None)

        def loss(_: int, rng: np.random.Generator, data: Demonstrations = data) -> tuple[Tensor, dict[str, float]]:
            rows = rng.integers(len(data), size=config.batch_size)
            parts = losses(model, data, rows, tokens, config)
            return sum(parts.values()), {name: value.item() for name, value in parts.items()}

        loop.run(loss, until=end, after_update=average_weights)
    save()
    facts = {"config": settings, "updates": loop.update, "minutes_of_updates": round(loop.seconds / 60, 1)}
    (directory / "train.json").write_text(json.dumps(facts, indent=1) + "\n")
    return checkpoint


def learning_rate(config: PocketVlaTrainConfig, update: int) -> float:
    """Return the learning rate of an update: constant after a warm-up, then a cosine to zero over the last part."""
    cooling = max(0.0, update / sum(config.updates) - (1 - config.cool_down)) / config.cool_down
    return config.learning_rate * min(1.0, (update + 1) / config.warm_up) * 0.5 * (1 + math.cos(math.pi * cooling))


def losses(
    model, data: Demonstrations, rows: np.ndarray, tokens, config: PocketVlaTrainConfig
) -> dict[str, torch.Tensor]:
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
        "grounding": config.grounding_weight * entropy.mean(),
    }


def heat(points: np.ndarray, side: int) -> np.ndarray:
    """Positions (..., 2) in [-1, 1] as weights float32 (..., side * side) on the four nearest cells, whose expectation
    is the position; all zero where it lies outside of their centres."""
    cell = (points + 1) / 2 * side - 0.5
    x, y = (np.clip(1 - np.abs(cell[..., i, None] - np.arange(side)), 0, None) for i in (0, 1))
    inside = ((cell >= 0) & (cell <= side - 1)).all(-1)[..., None]
    return (y[..., :, None] * x[..., None, :]).reshape(*points.shape[:-1], -1).astype(np.float32) * inside


def collect(config: PocketVlaTrainConfig, round_: int, episodes: int, student: Path | None) -> Demonstrations:
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
def _world(name: str) -> TrainingWorld:
    return make_world(name)


def _read(path: Path) -> Demonstrations:
    with np.load(path) as arrays:
        return Demonstrations(**{f.name: arrays[f.name] for f in fields(Demonstrations)})
