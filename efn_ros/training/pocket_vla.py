# SPDX-License-Identifier: MIT
"""Behaviour cloning of PocketVLA from a simulator's scripted experts, in rounds (DAgger, arXiv:1011.0686).

In round 0 the expert drives, disturbed by noise; in every later round the student drives and the expert labels. The
network then trains on the data of all rounds so far. The policy sees images, instruction and end-effector state only;
the image positions of hand, object and goal supervise three of its keypoints.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
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
from efn_ros.training.state import settings_of
from efn_ros.worlds import TrainingWorld
from efn_ros.worlds.registry import make_world, world_tasks

# Where the network of a robot differs from the defaults: cameras, proprioception (mean and standard deviation, in its
# own units) and actions.
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

    directory: str  # of the run: state, log, checkpoint
    world: str = "metaworld"  # metaworld or libero
    tasks: tuple[str, ...] = ()  # empty: all tasks of the world
    episodes: tuple[int, ...] = (60, 30, 30, 30, 40)  # for each task, one entry a round
    updates: tuple[int, ...] = (1500, 600, 600, 600, 3200)  # one entry a round
    batch_size: int = 128  # decisions an update
    learning_rate: float = 1e-3  # largest, of AdamW
    warm_up: int = 200  # updates over which the learning rate rises
    cool_down: float = 0.4  # fraction of all updates, the last ones, over which the learning rate falls to zero
    weight_decay: float = 1e-3  # of AdamW
    grounding_weight: float = 0.03  # of the cross-entropy between attention and landmarks
    average_decay: float = 0.998  # of the moving average of the weights, which is the policy
    save_every: int = 250  # updates
    seed: int = 0  # of all random choices
    first_seed: int = 100_000  # of the scenes of demonstrations; evaluation uses seeds below
    processes: int = 2  # that collect
    threads: int = 2  # of training


def train_pocket_vla(config: PocketVlaTrainConfig) -> Path:
    """Run all rounds, or resume.

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
    model = PocketVla(network).train()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - transformers wraps `to`
    average = deepcopy(model)
    averaged = dict(average.named_parameters())
    settings = settings_of(config, "directory", "processes")
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
        first, end = sum(config.updates[:round_]), sum(config.updates[: round_ + 1])
        if loop.update >= end:
            continue
        if loop.update == first:
            save()  # the student of this round
        data = collect(config, round_, episodes, checkpoint if round_ else None)

        def loss(_: int, rng: np.random.Generator, data: Demonstrations = data) -> tuple[Tensor, dict[str, float]]:
            rows = rng.integers(len(data), size=config.batch_size)
            parts = losses(model, data, rows, tokens, config)
            return parts["action"] + parts["grounding"], {name: value.item() for name, value in parts.items()}

        loop.run(loss, until=end, after_update=average_weights)
    save()
    facts = {"config": settings, "updates": loop.update, "minutes_of_updates": round(loop.seconds / 60, 1)}
    (directory / "train.json").write_text(json.dumps(facts, indent=1) + "\n")
    return checkpoint


def learning_rate(config: PocketVlaTrainConfig, update: int) -> float:
    """Return the learning rate of an update: a linear warm-up, a constant, and a cosine decay to zero at the end."""
    cooling = max(0.0, update / sum(config.updates) - (1 - config.cool_down)) / config.cool_down
    return config.learning_rate * min(1.0, (update + 1) / config.warm_up) * 0.5 * (1 + math.cos(math.pi * cooling))


def losses(
    model: PocketVla, data: Demonstrations, rows: np.ndarray, tokens, config: PocketVlaTrainConfig
) -> dict[str, Tensor]:
    """Return the losses of a batch.

    Returns:
        action: L1 distance to the expert's chunk; grounding: cross-entropy of each camera's first keypoints with the
        image positions of hand, object and goal, without those outside of the image.
    """
    images = torch.from_numpy(data.images[rows])  # (B, C, S, S, 3): already channels last
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2).to(torch.bfloat16) / 127.5 - 1.0
    task = torch.from_numpy(data.task[rows])
    with torch.autocast("cpu", torch.bfloat16):
        text = model.embed_text(tokens["input_ids"], tokens["attention_mask"])[task]
        visual, points, heatmaps = model.encode_images(pixels.unflatten(0, images.shape[:2]), text)
        latent = model.encode_latents(visual, points, torch.from_numpy(data.proprio[rows]), text)
        action = model.decode(latent, visual)
    side = round(heatmaps.shape[-1] ** 0.5)
    target = torch.from_numpy(target_heatmaps(data.landmarks[rows], side))
    entropy = -(target * heatmaps[:, :, : target.shape[2]].log_softmax(-1)).sum(-1)
    return {
        "action": (action - torch.from_numpy(data.actions[rows])).abs().mean(),
        "grounding": config.grounding_weight * entropy.mean(),
    }


def target_heatmaps(points: np.ndarray, side: int) -> np.ndarray:
    """Return heatmaps whose expectation is a position.

    Args:
        points: Positions (..., 2) in [-1, 1].
        side: Cells along each side of a heatmap.

    Returns:
        Weights float32 (..., side * side) on the four nearest cells; all zero for a position outside of the centres of
        the cells.
    """
    cell = (points + 1) / 2 * side - 0.5
    x, y = (np.clip(1 - np.abs(cell[..., i, None] - np.arange(side)), 0, None) for i in (0, 1))
    inside = np.all((cell >= 0) & (cell <= side - 1), axis=-1, keepdims=True)
    return (y[..., :, None] * x[..., None, :]).reshape(*points.shape[:-1], -1).astype(np.float32) * inside


def collect(config: PocketVlaTrainConfig, round_: int, episodes: int, student: Path | None) -> Demonstrations:
    """Return all demonstrations up to a round; those of this round that are not on disk yet are recorded first."""
    directory = Path(config.directory) / "demonstrations"
    directory.mkdir(exist_ok=True)
    tasks = config.tasks or tuple(world_tasks(config.world))

    def file(round_: int, task: str) -> Path:
        return directory / f"{round_}_{task.replace('/', '.')}.npz"

    missing = [task for task in tasks if not file(round_, task).exists()]
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.processes, mp_context=context) as pool:
            seeds = range(config.first_seed + 1000 * round_, config.first_seed + 1000 * round_ + episodes)
            jobs = [pool.submit(_record, config.world, t, file(round_, t), seeds, student) for t in missing]
            for job in tqdm(as_completed(jobs), total=len(jobs), desc=f"round {round_}: demonstrations"):
                tqdm.write(job.result())
    return Demonstrations.concatenate([Demonstrations.load(file(r, t)) for r in range(round_ + 1) for t in tasks])


def _record(name: str, task: str, path: Path, seeds: range, student: Path | None) -> str:
    """Write the demonstrations of a task; return its success rate, to log."""
    world = _world(name)
    policy = PocketVlaPolicy.from_pretrained(student, threads=1) if student else None
    parts = [demonstrate(world, task, seed, PocketVlaConfig().horizon, policy) for seed in seeds]
    Demonstrations.concatenate(parts).save(path)
    return f"{task}: {np.mean([p.succeeded[0] for p in parts]):.0%} of {len(parts)} episodes succeeded"


@cache  # building its scenes takes seconds
def _world(name: str) -> TrainingWorld:
    return make_world(name)
