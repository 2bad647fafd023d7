"""Behaviour cloning of PocketVLA from Meta-World's scripted experts, in rounds (DAgger).

Round 0 shows the expert under noise; every later round lets the student drive and asks the expert what it would have
done. After each round's data the network trains on all of it. The policy sees images, instruction and end-effector
state only; positions of objects serve one auxiliary loss on the keypoints, whose head is not part of the policy.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from efn_ros.policies.pocket_vla.demonstrations import Demonstrations, demonstrate
from efn_ros.policies.pocket_vla.model import PocketVla, PocketVlaConfig
from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy
from efn_ros.policies.pocket_vla.processor import PocketVlaProcessor, train_tokenizer
from efn_ros.worlds.metaworld import TASKS, MetaWorld

LANDMARK_MEAN = torch.tensor([0.0, 0.65, 0.15])
LANDMARK_STD = torch.tensor([0.15, 0.12, 0.10])


@dataclass(frozen=True)
class TrainConfig:
    """episodes, updates: one entry a round, episodes for each task. seed: of everything. processes: that collect."""

    directory: str
    episodes: tuple[int, ...] = (120, 30, 30, 30, 30, 30)
    updates: tuple[int, ...] = (4000, 1500, 1500, 1500, 1500, 6000)
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    grounding: float = 0.5
    ema: float = 0.998
    seed: int = 0
    first_seed: int = 100_000  # scenes of demonstrations; evaluation uses seeds below
    processes: int = 2
    threads: int = 2


def train(config: TrainConfig) -> Path:
    """Run every round that is not yet on disk and return the directory of the checkpoint."""
    directory = Path(config.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "train.json").write_text(json.dumps(asdict(config), indent=1))
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    tokenizer = train_tokenizer(TASKS.values(), 512)
    processor = PocketVlaProcessor(tokenizer)
    model = PocketVla(PocketVlaConfig(vocabulary_size=len(tokenizer)))
    grounding = nn.Linear(2 * model.config.keypoints * len(model.config.cameras), LANDMARK_MEAN.numel() * 3)
    average = deepcopy(model)
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *grounding.parameters()], config.learning_rate, weight_decay=config.weight_decay
    )
    tokens = processor.tokenizer(list(TASKS.values()), padding=True, return_tensors="pt")
    checkpoint, minutes = directory / "checkpoint", 0.0
    total, done = sum(config.updates), 0
    for round_, (episodes, updates) in enumerate(zip(config.episodes, config.updates, strict=True)):
        state = directory / f"round_{round_}.pt"
        data = collect(config, round_, episodes, checkpoint if round_ else None)
        if state.exists():
            saved = torch.load(state, weights_only=True)
            for part, value in zip((model, grounding, average, optimiser), saved["parts"], strict=True):
                part.load_state_dict(value)
            minutes, done = saved["minutes"], saved["done"]
            continue
        started = time.monotonic()
        rng = np.random.default_rng([config.seed, round_])
        model.to(memory_format=torch.channels_last).train()
        progress = tqdm(range(updates), desc=f"round {round_}: {len(data)} decisions", mininterval=5.0)
        shown = 0.0
        for _ in progress:
            # Constant at first, then a cosine to zero over the last 40 %.
            fraction = max(0.0, done / total - 0.6) / 0.4
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * min(1.0, (done + 1) / 200) * 0.5 * (1 + np.cos(np.pi * fraction))
            loss = losses(model, grounding, data, rng.integers(len(data), size=config.batch), tokens, config)
            optimiser.zero_grad(set_to_none=True)
            sum(loss.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            done += 1
            with torch.no_grad():
                rate = min(config.ema, done / (done + 10))
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - rate)
            shown = 0.98 * shown + 0.02 * loss["action"].item() if shown else loss["action"].item()
            progress.set_postfix(action=f"{shown:.4f}", grounding=f"{loss['grounding'].item():.3f}")
        minutes += (time.monotonic() - started) / 60
        average.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        parts = [part.state_dict() for part in (model, grounding, average, optimiser)]
        torch.save({"parts": parts, "minutes": minutes, "done": done}, state)
    return checkpoint


def losses(model, grounding, data: Demonstrations, rows: np.ndarray, tokens, config: TrainConfig) -> dict:
    """L1 to the expert's chunk, and of the landmarks read off the keypoints."""
    images = torch.from_numpy(data.images[rows])  # (B, C, S, S, 3): already channels last
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2).to(torch.bfloat16) / 127.5 - 1.0
    task = torch.from_numpy(data.task[rows])
    with torch.autocast("cpu", torch.bfloat16):
        text = model.embed_text(tokens["input_ids"], tokens["attention_mask"])[task]
        latent, visual, points = model.encode(
            pixels.unflatten(0, images.shape[:2]), torch.from_numpy(data.proprio[rows]), text
        )
        action = model.decode(latent, visual)
        landmarks = grounding(points).float().unflatten(-1, (3, 3))
    target = (torch.from_numpy(data.landmarks[rows]) - LANDMARK_MEAN) / LANDMARK_STD
    return {
        "action": (action - torch.from_numpy(data.actions[rows])).abs().mean(),
        "grounding": config.grounding * (landmarks - target).abs().mean(),
    }


def collect(config: TrainConfig, round_: int, episodes: int, student: Path | None) -> Demonstrations:
    """All demonstrations up to this round; those of this round are made where they are not on disk yet."""
    directory = Path(config.directory) / "demonstrations"
    directory.mkdir(exist_ok=True)
    wanted = [directory / f"{round_}_{task}.npz" for task in TASKS]
    missing = [(task, path) for task, path in zip(TASKS, wanted, strict=True) if not path.exists()]
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.processes, mp_context=context) as pool:
            seeds = range(config.first_seed + 1000 * round_, config.first_seed + 1000 * round_ + episodes)
            jobs = [pool.submit(_collect_task, task, seeds, student, path) for task, path in missing]
            for job in tqdm(jobs, desc=f"round {round_}: demonstrations"):
                tqdm.write(job.result())
    paths = [directory / f"{r}_{task}.npz" for r in range(round_ + 1) for task in TASKS]
    return Demonstrations.concatenate([_read(path) for path in paths])


def _collect_task(task: str, seeds: range, student: Path | None, path: Path) -> str:
    world = _WORLD.setdefault("world", MetaWorld())
    policy = PocketVlaPolicy.from_pretrained(student, threads=1) if student else None
    parts = [demonstrate(world, task, seed, PocketVlaConfig().horizon, policy) for seed in seeds]
    data = Demonstrations.concatenate(parts)
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, **{f.name: getattr(data, f.name) for f in fields(Demonstrations)})
    partial.rename(path)
    return f"{task}: {np.mean([p.succeeded[0] for p in parts]):.0%} of {len(parts)} episodes succeeded"


_WORLD: dict[str, MetaWorld] = {}  # one a process: building its scenes takes seconds


def _read(path: Path) -> Demonstrations:
    with np.load(path) as arrays:
        return Demonstrations(**{f.name: arrays[f.name] for f in fields(Demonstrations)})
