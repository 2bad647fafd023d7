# SPDX-License-Identifier: MIT
"""Exploration around a residual, so that the bank contains actions that the policy alone never executes.

Exploration is a function of the episode's seed and the step. It changes a residual by at most the share `scale` of its
bound, and obeys the same limits as any correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efn_ros.resources import checkpoint_directory
from efn_ros.types import Outcome, PolicyStep, Recall

OFF = "off"
MODES = ("noise", "residual", "branch", "retry")
MIN_PERIOD_S, MAX_PERIOD_S = 1.0, 4.0  # of the sines of the noise: about the duration of a motion of an arm
SINES = 4  # for each dimension; enough that their sum is no regular sine
STREAM = 0x50524F42  # separates these draws from those of retrieval, which depend on (seed, step) too

Sampler = Callable[[PolicyStep, Recall, np.random.Generator], np.ndarray | None]


@dataclass(frozen=True)
class Exploration:
    """Method, size and occasions of exploration.

    * off: none.
    * noise: smooth noise over the chunk and from one decision to the next.
    * residual: a sample of the learned actor instead of its mean, (10)-(13).
    * branch: towards the action of another recalled step, drawn by the probabilities (19).
    * retry: noise where failures begin: where steps of failures have more than half of the probability (19).

    Only episodes that are corrected and recorded are explored, and of them the share `episode_fraction`, by the seed of
    the episode: a measurement sets `record: false`. Without a recalled step the base action is not changed.

    Raises:
        ValueError: A parameter does not fit; the message names it.
    """

    mode: str  # OFF or one of MODES
    scale: float  # largest change, share of `bound`
    max_confidence: float  # decisions with a recall of this confidence or more are not explored
    episode_fraction: float  # share of episodes that are explored
    bound: np.ndarray  # largest residual, (A,), in the action's units
    control_steps: int  # from one decision to the next
    rate_hz: float  # control rate
    sampler: Sampler | None = None  # of mode residual

    def __post_init__(self) -> None:
        if self.mode not in (OFF, *MODES):
            raise ValueError(
                f"exploration.mode is {self.mode!r}; choose one of {', '.join(map(repr, (OFF, *MODES)))} "
                "(in quotes: YAML takes a bare off for a boolean)"
            )
        for name in ("scale", "max_confidence", "episode_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"exploration.{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.mode != OFF and not np.isfinite(self.bound).all():
            raise ValueError(
                f"limits.residual is {self.bound.tolist()}; exploration.mode {self.mode!r} explores a share of it: "
                "make every entry finite"
            )
        if self.mode == "residual" and self.sampler is None:
            raise ValueError(
                "exploration.mode 'residual' samples the learned actor; set method: learned, or another mode"
            )

    def explores(self, seed: int) -> bool:
        """Return whether an episode with this seed is explored."""
        return self.mode != OFF and _rng(seed).random() < self.episode_fraction

    def __call__(self, step: PolicyStep, recall: Recall, residual: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Return a residual (H, A) instead of `residual`, and the index of its recalled step; None: no exploration."""
        context = step.context
        eligible = context.correct and context.record and recall.selected >= 0
        if not (eligible and recall.confidence < self.max_confidence and self.explores(context.seed)):
            return None
        source, change = recall.selected, None
        if self.mode == "noise" or (self.mode == "retry" and failure_probability(recall) > 0.5):
            first = context.step * self.control_steps
            noise = sine_noise(context.seed, first, step.base.shape[0], step.base.shape[1], self.rate_hz)
            change = self.scale * self.bound * noise
        elif self.mode == "residual" and self.sampler:
            sampled = self.sampler(step, recall, _rng(context.seed, context.step))
            change = None if sampled is None else sampled - residual
        elif self.mode == "branch" and (source := other_step(recall, step, _rng(context.seed, context.step))) >= 0:
            change = recall.steps[source].executed - step.base - residual
        if change is None or not np.isfinite(change).all():
            return None
        largest = np.float32(self.scale) * self.bound
        return (residual + np.clip(change, -largest, largest)).astype(np.float32), source


def sine_noise(seed: int, first: int, horizon: int, size: int, rate_hz: float) -> np.ndarray:
    """Return smooth noise over the control steps from `first` on, float64 (horizon, size) in [-1, 1].

    It is the mean of SINES sines for each dimension, with phases and periods drawn once per episode. A control step has
    the same value in every chunk that contains it, and the next one differs by at most 2 pi / (MIN_PERIOD_S rate_hz).

    Args:
        seed: Of the episode.
        first: Index of the first control step.
        horizon: Control steps.
        size: A.
        rate_hz: Control rate.
    """
    rng = _rng(seed)
    rng.random()  # `explores` uses the first draw
    period = MIN_PERIOD_S * (MAX_PERIOD_S / MIN_PERIOD_S) ** rng.random((SINES, size))
    phase = rng.random((SINES, size))
    t = (first + np.arange(horizon)) / rate_hz
    return np.sin(2 * math.pi * (t[:, None, None] / period + phase)).mean(axis=1)


def failure_probability(recall: Recall) -> float:
    """Return the probability (19) of the recalled steps of failures."""
    return float(recall.steps.probability @ (recall.steps.outcome == Outcome.FAILURE))


def other_step(recall: Recall, step: PolicyStep, rng: np.random.Generator) -> int:
    """Return the index of a recalled step other than the selected one, drawn by the probabilities (19).

    It is -1 without another step, or if the recalled chunks have another shape than the base action.
    """
    weights = np.where(np.arange(len(recall.steps)) == recall.selected, 0.0, recall.steps.probability)
    if not weights.any() or recall.steps.executed.shape[1:] != step.base.shape:
        return -1
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def actor_sampler(checkpoint: str | Path, *, gain: float = 1.0) -> Sampler:
    """Return a function that samples residuals (H, A) from the network's tanh-Gaussian.

    It returns None if the recalled steps do not fit the network.

    Args:
        checkpoint: As of `LearnedResidual`.
        gain: As of `LearnedResidual`.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint does not fit its configuration.

    Source: section 4.4.
    """
    import torch  # only this mode needs it

    from efn_ros.efn.actor import Efn
    from efn_ros.efn.batching import present_of, recalled_of
    from efn_ros.efn.config import PACKAGED

    efn = Efn.from_pretrained(checkpoint_directory(checkpoint, PACKAGED))
    codes = efn.codes

    @torch.inference_mode()
    def sample(step: PolicyStep, recall: Recall, rng: np.random.Generator) -> np.ndarray | None:
        if codes and recall.codes != codes.identity:
            return None
        if recall.steps and recall.steps.executed.shape[1:] != step.base.shape:
            return None
        present, recalled = present_of(step), recalled_of(recall.steps, efn.config)
        mean, log_std = efn(present, recalled)
        normal = torch.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
        return np.float32(gain) * efn.bounded(mean + log_std.exp() * normal, recalled)[0].numpy()

    return sample


def _rng(seed: int, step: int = -1) -> np.random.Generator:
    """The generator of an episode, or of one of its decisions; seeds are unsigned in messages."""
    return np.random.default_rng([STREAM, seed % 2**64, step + 1])
