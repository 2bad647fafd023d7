# SPDX-License-Identifier: MIT
"""The training loop: a process killed at any time resumes from its last state, to the same weights bit for bit.

Every random draw of an update comes from the seed and the number of the update, so a state holds no random generators.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.training.state import check_settings, read_state, write_state

WARM_UP, FIRST_RATE = 0.1, 0.04  # fraction of the updates; fraction of the learning rate at the first one
MAX_GRADIENT_NORM = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq", "step")

Loss = Callable[[int, np.random.Generator], "tuple[Tensor, dict[str, float]]"]


@dataclass(frozen=True)
class LoopConfig:
    """Settings of a training loop."""

    updates: int  # in all
    learning_rate: Callable[[int], float]  # at an update
    weight_decay: float  # of AdamW
    seed: int | tuple[int, ...]  # of the order of samples and of dropout
    save_every: int  # updates from one state, and one validation, to the next
    settings: dict[str, Any] = field(default_factory=dict)  # a state that was made with other settings is refused


class TrainingLoop:
    """AdamW on named parameters, with gradient clipping.

    Attributes:
        update: Updates done, those of an earlier, interrupted run included.
        seconds: Their duration.
        validation: Scalars of the last validation.
        losses: Mean loss from each state to the next.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        config: LoopConfig,
        state: Path,
        *,
        extra: Mapping[str, Tensor] | None = None,
        log: SummaryWriter | None = None,
        pause: Callable[[], None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        """Begin, or resume an interrupted loop with the same settings.

        Args:
            parameters: The parameters to train.
            config: Settings.
            state: File of the state; its stem is the prefix of logged scalars. It is not removed at the end.
            extra: Further tensors that belong to the state, such as moving averages.
            log: Where losses and validations are logged.
            pause: Called before every update; may raise to interrupt the loop.
            quiet: Whether to hide the progress bar.

        Raises:
            ValueError: The state was made with other settings, or is damaged.
        """
        self._parameters, self._config, self._state = dict(parameters), config, state
        self._extra, self._log, self._pause, self._quiet = dict(extra or {}), log, pause, quiet
        self._optimiser = torch.optim.AdamW(self._parameters.values(), weight_decay=config.weight_decay)
        self.update, self.seconds = 0, 0.0
        self.validation: dict[str, float] = {}
        self.losses: list[float] = []
        if state.exists():
            self._restore()

    def run(
        self,
        loss: Loss,
        validate: Callable[[], dict[str, float]] | None = None,
        *,
        until: int | None = None,
        after_update: Callable[[int], None] | None = None,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """Train.

        Args:
            loss: Maps the number of an update and its random generator to its loss and to scalars to log.
            validate: Returns scalars of a validation; called before a state is written.
            until: Number of updates to stop after; None: the end.
            after_update: Called with the number of updates done.
            saved: Called after a state was written.
        """
        config, end = self._config, self._config.updates if until is None else until
        started, total, count = time.monotonic() - self.seconds, 0.0, 0
        seed = config.seed if isinstance(config.seed, tuple) else (config.seed,)
        progress = tqdm(
            range(self.update, end),
            desc=self._state.stem,
            total=end,
            initial=self.update,
            mininterval=5.0,
            disable=self._quiet,
        )
        for update in progress:
            self._pause()
            for group in self._optimiser.param_groups:
                group["lr"] = config.learning_rate(update)
            torch.manual_seed(int(np.random.SeedSequence([*seed, update]).generate_state(1)[0]))  # of dropout
            value, scalars = loss(update, np.random.default_rng([*seed, update]))
            self._optimiser.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRADIENT_NORM)
            self._optimiser.step()
            self.update, total, count = update + 1, total + value.item(), count + 1
            if after_update:
                after_update(self.update)
            self._write_log(scalars, update)
            if self.update % config.save_every == 0 or self.update == end:
                self.validation = validate() if validate else {}
                self._write_log(self.validation, update)
                progress.set_postfix({label: f"{number:.4f}" for label, number in (scalars | self.validation).items()})
                self.losses.append(total / count)
                self.seconds, total, count = time.monotonic() - started, 0.0, 0
                self._save()
                saved()

    def _write_log(self, scalars: dict[str, float], update: int) -> None:
        if self._log:
            for label, number in scalars.items():
                self._log.add_scalar(f"{self._state.stem}/{label}", number, update)

    def _save(self) -> None:
        arrays = {f"parameter.{name}": p.detach() for name, p in self._parameters.items()}
        arrays |= {f"extra.{name}": tensor.detach() for name, tensor in self._extra.items()}
        for name, p in self._parameters.items():  # a parameter without a gradient has no moments
            arrays |= {f"{moment}.{name}": tensor for moment, tensor in self._optimiser.state.get(p, {}).items()}
        facts = {"update": self.update, "seconds": self.seconds, "validation": self.validation, "losses": self.losses}
        numpy = {name: tensor.cpu().contiguous().numpy() for name, tensor in arrays.items()}
        write_state(self._state, numpy, facts | {"settings": self._config.settings})

    @torch.no_grad()
    def _restore(self) -> None:
        arrays, facts = read_state(self._state)
        check_settings(self._state, facts["settings"], self._config.settings)
        for prefix, tensors in (("parameter", self._parameters), ("extra", self._extra)):
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(arrays[f"{prefix}.{name}"]))
        for name, p in self._parameters.items():
            moments = {m: arrays[f"{m}.{name}"] for m in MOMENTS if f"{m}.{name}" in arrays}
            if moments:
                self._optimiser.state[p] = {m: torch.from_numpy(array).to(p.device) for m, array in moments.items()}
        self.update, self.seconds = facts["update"], facts["seconds"]
        self.validation, self.losses = facts["validation"], facts["losses"]


def warmup_cosine(rate: float, updates: int) -> Callable[[int], float]:
    """Return a learning-rate schedule with a linear warm-up and a cosine decay to zero."""

    def at(update: int) -> float:
        progress = update / updates
        if progress < WARM_UP:
            return rate * (FIRST_RATE + (1 - FIRST_RATE) * progress / WARM_UP)
        return rate * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))

    return at
