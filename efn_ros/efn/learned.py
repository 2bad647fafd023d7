"""The learned correction: a trained network behind the interface of the corrector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from efn_ros.efn.network import Efn, present_of, recalled_of
from efn_ros.types import PolicyStep, Recall

PACKAGED = Path(__file__).resolve().parent / "checkpoint"


class LearnedResidual:
    """Deterministic: tanh of the actor's mean (4.4), zero where nothing was recalled.

    checkpoint: a directory; empty: the one in the package. gain: factor on the residual. Raises FileNotFoundError and
    ValueError as `Efn.from_pretrained` does.
    """

    def __init__(self, checkpoint: str | Path = "", *, gain: float = 1.0, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._efn = Efn.from_pretrained(checkpoint or PACKAGED)
        self._gain = np.float32(gain)

    @torch.inference_mode()
    def __call__(self, step: PolicyStep, recall: Recall) -> tuple[np.ndarray, str]:
        """The residual (H, A), and why it is zero (empty where it is not). Raises ValueError for other sizes than the
        network's."""
        c = self._efn.config
        for name, found, expected in (
            ("base action", step.base.shape, (c.horizon, c.action_size)),
            ("latent", step.latent.shape, c.latent),
            ("sketch", step.sketch.q.shape, c.sketch),
            ("proprioception", step.proprio.shape, (len(c.proprio_mean),)),
        ):
            if tuple(found) != expected:
                raise ValueError(f"{name} of the step has shape {tuple(found)}; the EFN takes {expected}")
        steps = tuple(s for s in recall.steps if s.executed.shape == step.base.shape)
        if c.remembers and not steps:
            return np.zeros_like(step.base), recall.reason or "nothing was recalled"
        residual = self._efn.residual(present_of(step), recalled_of(steps, c))[0].numpy()
        return self._gain * residual, ""
