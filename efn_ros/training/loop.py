"""Gradient descent that may be killed at any time: it goes on from its last state, to the same weights bit for bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.training.state import read, write

WARM_UP, FIRST_RATE = 0.1, 0.04  # share of the updates; share of the rate at the first one
LARGEST_GRADIENT = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def descend(
    parameters: dict[str, Tensor],
    loss: Callable[[np.random.Generator], tuple[Tensor, dict[str, float]]],
    measure: Callable[[], dict[str, float]],
    state: Path,
    log: SummaryWriter,
    *,
    updates: int,
    rate: float,
    weight_decay: float,
    every: int,
    seed: int,
    settings: dict[str, Any],
) -> tuple[dict[str, float], float]:
    """AdamW, with a warm-up and a cosine down to zero; what `measure` said last, and the seconds that it took.

    loss: of one batch, drawn with what it is given, and what to write to `log` beside it. every: updates from one
    `measure`, and one state, to the next. state: the file that a killed call leaves and that the next one goes on
    from; the name of the file also names what is logged. settings: what the state was made with; raises ValueError for
    a state of others.
    """
    optimiser = torch.optim.AdamW(parameters.values(), rate, weight_decay=weight_decay)
    rng, done, seconds, said = np.random.default_rng(seed), 0, 0.0, {}
    if state.exists():
        done, seconds, said = _restore(parameters, optimiser, rng, state, settings)
    name, began = state.stem, time.monotonic() - seconds
    progress = tqdm(range(done, updates), desc=name, total=updates, initial=done, mininterval=5.0)
    for update in progress:
        for group in optimiser.param_groups:
            group["lr"] = rate * share_of_rate(update / updates)
        value, beside = loss(rng)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), LARGEST_GRADIENT)
        optimiser.step()
        for label, number in beside.items():
            log.add_scalar(f"{name}/{label}", number, update)
        if (update + 1) % every == 0 or update + 1 == updates:
            said = measure()
            for label, number in said.items():
                log.add_scalar(f"{name}/{label}", number, update)
            progress.set_postfix({label: f"{number:.4f}" for label, number in (beside | said).items()})
            facts = {"update": update + 1, "seconds": time.monotonic() - began, "said": said, "settings": settings}
            _keep(parameters, optimiser, rng, state, facts)
    return said, time.monotonic() - began


def share_of_rate(progress: float) -> float:
    """Of the learning rate, at `progress` in [0, 1)."""
    if progress < WARM_UP:
        return FIRST_RATE + (1 - FIRST_RATE) * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def refuse_others(what: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises ValueError, naming the first setting that differs between those that `what` was `made` with, as JSON gave
    them back, and those now `asked` for."""
    asked = json.loads(json.dumps(asked))
    for name in sorted({*asked, *made}):
        if asked.get(name) != made.get(name):
            raise ValueError(
                f"{what} was made with {name} {made.get(name)}, not {asked.get(name)}; "
                "go on with that, or name another directory"
            )


def _keep(
    parameters: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
    state: Path,
    facts: dict[str, Any],
) -> None:
    arrays = {name: p.detach() for name, p in parameters.items()}
    for name, p in parameters.items():
        arrays |= {f"{name}.{moment}": optimiser.state[p][moment] for moment in MOMENTS}
    arrays["draw"] = torch.get_rng_state()  # of dropout
    write(
        state, {name: array.cpu().numpy() for name, array in arrays.items()}, facts | {"rng": rng.bit_generator.state}
    )


@torch.no_grad()
def _restore(
    parameters: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
    state: Path,
    settings: dict[str, Any],
) -> tuple[int, float, dict[str, float]]:
    arrays, facts = read(state)
    refuse_others(state, facts["settings"], settings)
    for name, p in parameters.items():
        p.copy_(torch.from_numpy(arrays[name]))
        optimiser.state[p] = {moment: torch.from_numpy(arrays[f"{name}.{moment}"]) for moment in MOMENTS}
    torch.set_rng_state(torch.from_numpy(arrays["draw"]))
    rng.bit_generator.state = facts["rng"]
    return facts["update"], facts["seconds"], facts["said"]
