"""Probes around what would be executed, so that the bank comes to hold what the policy alone never does.

A probe is deterministic from (seed of the episode, step), differs from what would be executed by at most `scale` of
the residual's bound, and goes through the same limits as any correction.
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
FASTEST_S, SLOWEST_S = 1.0, 4.0  # periods of the waves that noise is made of: about what a motion of an arm takes
WAVES = 4  # for each dimension: enough that their sum does not look like one of them
STREAM = 0x50524F42  # "PROB": not the draws of recall, which come from (seed, step) too

Sampler = Callable[[PolicyStep, Recall, np.random.Generator], np.ndarray | None]


@dataclass(frozen=True)
class Exploration:
    """How, how far and where to probe.

    mode: "off", or
        noise     smooth over the chunk and from one decision to the next;
        residual  a sample of the learned actor instead of its mean, (10)-(13);
        branch    towards what another recalled step executed, drawn by the probabilities of recall, (19);
        retry     noise where failures start: where recall gives more than half of its probability to failures.
    scale: largest probe, share of `bound`. max_confidence: only decisions whose recall is less sure are probed. rate:
    share of episodes. bound: (A,) largest residual, in the action's units. control_steps: from one decision to the
    next. rate_hz: control rate. sampler: of mode residual. Raises ValueError, naming the parameter, for what does not
    fit.

    **Which episodes are probed**: those that are corrected and recorded (`correct` and `record` of the context), and of
    them the share `rate`, by the episode's seed. So the base alone (`correct: false`) stays the base alone, and an
    episode that is not remembered, from which a probe would teach nothing, is never probed: who measures sets
    `record: false`, as `efn_ros/evaluation` does. Where memory said nothing (lost, late, empty or switched off) the
    base goes out unchanged, as it does without exploration.
    """

    mode: str
    scale: float
    max_confidence: float
    rate: float
    bound: np.ndarray
    control_steps: int
    rate_hz: float
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        if self.mode not in (OFF, *MODES):
            raise ValueError(
                f"exploration.mode is {self.mode!r}; there are {', '.join(map(repr, (OFF, *MODES)))} "
                "(in quotes: YAML takes a bare off for a boolean)"
            )
        for name in ("scale", "max_confidence", "rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"exploration.{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.mode != OFF and not np.isfinite(self.bound).all():
            raise ValueError(
                f"limits.residual is {self.bound.tolist()}; exploration.mode {self.mode!r} probes a share of it, so "
                "make every entry finite"
            )
        if self.mode == "residual" and self.sampler is None:
            raise ValueError(
                "exploration.mode 'residual' samples the learned actor; set method: learned, or another mode"
            )

    def explores(self, seed: int) -> bool:
        """Whether an episode of this seed is one of the share `rate`."""
        return self.mode != OFF and _rng(seed).random() < self.rate

    def __call__(self, step: PolicyStep, recall: Recall, residual: np.ndarray) -> tuple[np.ndarray, int] | None:
        """The residual (H, A) to add instead of `residual`, and the index of the recalled step behind it.

        None where this decision is not probed.
        """
        context = step.context
        if not (context.correct and context.record and recall.drawn >= 0 and recall.confidence < self.max_confidence):
            return None
        if not self.explores(context.seed):
            return None
        drawn, probe = recall.drawn, None
        if self.mode == "noise" or (self.mode == "retry" and failing(recall) > 0.5):
            first = context.step * self.control_steps
            probe = self.scale * self.bound * waves(context.seed, first, *step.base.shape, self.rate_hz)
        elif self.mode == "residual":
            sampled = self.sampler(step, recall, _rng(context.seed, context.step))
            probe = None if sampled is None else sampled - residual
        elif self.mode == "branch" and (drawn := another(recall, step, _rng(context.seed, context.step))) >= 0:
            probe = recall.steps[drawn].executed - step.base - residual
        if probe is None or not np.isfinite(probe).all():
            return None
        most = np.float32(self.scale) * self.bound
        return (residual + np.clip(probe, -most, most)).astype(np.float32), drawn


def waves(seed: int, first: int, horizon: int, size: int, rate_hz: float) -> np.ndarray:
    """Smooth noise over the control steps from `first` on, float64 (horizon, size) in [-1, 1].

    The mean of WAVES sines a dimension, with phases and periods drawn once an episode: the same control step has the
    same value in whichever chunk it stands, and from one to the next it changes by 2 pi / (FASTEST_S rate_hz) at most.
    """
    rng = _rng(seed)
    rng.random()  # `explores` has used it
    period = FASTEST_S * (SLOWEST_S / FASTEST_S) ** rng.random((WAVES, size))
    phase = rng.random((WAVES, size))
    t = (first + np.arange(horizon)) / rate_hz
    return np.sin(2 * math.pi * (t[:, None, None] / period + phase)).mean(axis=1)


def failing(recall: Recall) -> float:
    """Share of the probability of recall, (19), that lies on steps of failures."""
    return float(recall.steps.probability @ (recall.steps.outcome == Outcome.FAILURE))


def another(recall: Recall, step: PolicyStep, rng: np.random.Generator) -> int:
    """Index of a recalled step other than the drawn one, by the probabilities (19); -1 where there is none, or where
    memory holds chunks of another shape than the base's."""
    weights = np.where(np.arange(len(recall.steps)) == recall.drawn, 0.0, recall.steps.probability)
    if not weights.any() or recall.steps.executed.shape[1:] != step.base.shape:
        return -1
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def actor_sampler(checkpoint: str | Path, *, gain: float = 1.0) -> Sampler:
    """Residuals (H, A) out of the EFN's tanh-Gaussian, section 4.4 before its mean is taken; None where the EFN cannot
    read what was recalled, as `LearnedResidual` then says.

    checkpoint, gain: as of `LearnedResidual`. Raises FileNotFoundError and ValueError as `Efn.from_pretrained` does,
    and ValueError for a checkpoint that changes latent tokens.
    """
    import torch  # here, because only this mode needs it

    from efn_ros.efn.actor import Efn
    from efn_ros.efn.batching import present_of, recalled_of
    from efn_ros.efn.checkpoint import require_action_space
    from efn_ros.efn.config import PACKAGED

    directory = checkpoint_directory(checkpoint, PACKAGED)
    require_action_space(directory, "exploration.mode 'residual'")
    efn = Efn.from_pretrained(directory)
    codes = efn.codes

    @torch.inference_mode()
    def sample(step: PolicyStep, recall: Recall, rng: np.random.Generator) -> np.ndarray | None:
        if codes and recall.codes != codes.identity:
            return None
        if recall.steps and recall.steps.executed.shape[1:] != step.base.shape:
            return None
        present, recalled = present_of(step), recalled_of(recall.steps, efn.config)
        mean, log_std = efn(present, recalled)
        normal = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return np.float32(gain) * efn.bounded(mean + log_std.exp() * normal, recalled)[0].numpy()

    return sample


def _rng(seed: int, step: int = -1) -> np.random.Generator:
    """Of an episode, or of one of its decisions; seeds are unsigned on every wire."""
    return np.random.default_rng([STREAM, seed % 2**64, step + 1])
