"""One update of the network in use by the newest rollouts, which may be interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from efn_ros import files
from efn_ros.efn.actor import Efn
from efn_ros.online.config import LearnConfig
from efn_ros.training.bank_dataset import SMALLEST_BOUND, Lessons

BENT_AT = 0.1  # share of the bound, where the loss turns from squares to absolute values


def fit(
    efn: Efn,
    lessons: Lessons,
    config: LearnConfig,
    gain: float,
    seed: Sequence[int],
    *,
    state: Path,
    job: str,
    pause: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[float]:
    """Train `efn` in place; returns the loss of each epoch.

    state: after every epoch all of the training goes there; where it holds an unfinished `job`, that is gone on with,
    and the end is the same to the last bit. Only safetensors is written, the rest is in its header.
    """
    bound = (efn.bound * gain).clamp(min=SMALLEST_BOUND)
    weight = lessons.weight(config.anchor)
    weight /= weight.mean() or 1.0
    before = lessons.residuals(efn, gain, config.batch, pause)
    optimiser = torch.optim.AdamW(efn.parameters(), config.learning_rate)
    losses = _load_state(state, job, efn, optimiser)
    for epoch in range(len(losses), config.epochs):
        torch.manual_seed(int(np.random.SeedSequence([*seed, epoch]).generate_state(1)[0]))  # of dropout
        order = np.random.default_rng([*seed, epoch]).permutation(len(lessons))
        total = 0.0
        for rows in np.split(order, range(config.batch, len(order), config.batch)):
            pause()
            residual = gain * efn.train().residual(*lessons.batch(rows))
            wanted = torch.from_numpy(lessons.target[rows]).clamp(-bound, bound)  # the network reaches no farther
            missed = F.smooth_l1_loss(residual / bound, wanted / bound, beta=BENT_AT, reduction="none").mean((1, 2))
            changed = ((residual - torch.from_numpy(before[rows])) / bound).square().mean()
            loss = (torch.from_numpy(weight[rows]) * missed).mean() + config.nearness * changed
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(efn.parameters(), 1.0)
            optimiser.step()
            total += loss.item() * len(rows)
        losses.append(total / len(lessons))
        _save_state(state, job, efn, optimiser, losses)
        tell(f"learning: epoch {epoch + 1} of {config.epochs}, loss {losses[-1]:.4f}")
    efn.eval()
    return losses


def _save_state(path: Path, job: str, efn: Efn, optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in efn.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    files.write(path, save(tensors, {"job": job, "losses": json.dumps(losses)}))


def _load_state(path: Path, job: str, efn: Efn, optimiser: torch.optim.Optimizer) -> list[float]:
    """Losses of the epochs that are done; none where the state is of another job."""
    if _job_of(path) != job:
        return []
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        losses = json.loads(file.metadata()["losses"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    efn.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return losses


def _job_of(state: Path) -> str:
    """What an unfinished training is about; empty where there is none. Raises ValueError for a damaged file."""
    if not state.exists():
        return ""
    try:
        with safetensors.safe_open(state, framework="pt") as file:
            return file.metadata()["job"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{state} cannot be read ({error!r}); remove it, and the training begins anew") from error
