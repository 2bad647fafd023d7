"""The learned correction: a trained network behind the interface of the corrector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import present_of, recalled_of, recent_of
from efn_ros.efn.config import LATENT, PACKAGED
from efn_ros.experiments.latent_residual.residual import latent_residual
from efn_ros.experiments.sac.critics import CRITICS, EfnCritics
from efn_ros.experiments.sac.sac import attenuation
from efn_ros.resources import checkpoint_directory
from efn_ros.types import Past, PolicyStep, Proposal, Recall


class LearnedResidual:
    """Deterministic: tanh of the actor's mean (4.4), zero where nothing was recalled, less where memory does not fit
    what the episode has shown.

    checkpoint: a directory; empty: the one in the package. gain: factor on the residual. check_memory: follow it as
    far as the network's `Trust`, if it has one, says that it fits; else wholly. disagreement_scale: of the
    critics beside the actor, in units of the return, at which half of the residual is left (`attenuation`); 0 asks them
    nothing. decode, policy: of a checkpoint that changes latent tokens: the frozen decoder, (2), from Z (L, dz) and V
    (T, D) to an action (H, A), and the fingerprint of the policy that it is of. The residual is zero, and says why, for
    a step without V and for one of another policy. Raises FileNotFoundError and ValueError as `Efn.from_pretrained`
    does, and ValueError for such a checkpoint without a decoder.
    """

    def __init__(
        self,
        checkpoint: str | Path = "",
        *,
        gain: float = 1.0,
        check_memory: bool = True,
        disagreement_scale: float = 0.0,
        decode: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        policy: str = "",
        threads: int = 1,
    ) -> None:
        torch.set_num_threads(threads)
        directory = checkpoint_directory(checkpoint, PACKAGED)
        self._efn = Efn.from_pretrained(directory)
        self._decodes, self._decode, self._policy = self._efn.config.space == LATENT, decode, policy
        if self._decodes and decode is None:
            raise ValueError(
                f"{directory} has space {LATENT!r}, but nothing decodes its latent tokens; name the frozen policy in "
                "decoder_policy of efn_corrector"
            )
        self.codes = self._efn.codes
        self._gain, self._check_memory, self._disagreement_scale = np.float32(gain), check_memory, disagreement_scale
        if disagreement_scale and not (directory / CRITICS).is_file():
            raise FileNotFoundError(
                f"disagreement_scale is {disagreement_scale}, but {directory} has no {CRITICS}; set it to 0, or name a "
                "checkpoint of ./efn train --finetune"
            )
        self._critics = EfnCritics.from_pretrained(directory) if disagreement_scale else None

    @torch.inference_mode()
    def __call__(self, step: PolicyStep, recall: Recall, past: Sequence[Past] = ()) -> Proposal:
        """past: the decisions of this episode right before. Raises ValueError for other sizes than the network's."""
        c = self._efn.config
        for name, found, expected in (
            ("base action", step.base.shape, (c.horizon, c.action_size)),
            ("latent", step.latent.shape, c.latent),
            ("sketch", step.sketch.q.shape, c.sketch),
            ("proprioception", step.proprio.shape, (len(c.proprio_mean),)),
        ):
            if tuple(found) != expected:
                raise ValueError(f"{name} of the step has shape {tuple(found)}; the EFN takes {expected}")
        steps = recall.steps
        if c.remembers and not steps:
            return Proposal(np.zeros_like(step.base), recall.reason or "nothing was recalled")
        if steps and steps.executed.shape[1:] != step.base.shape:
            return Proposal(np.zeros_like(step.base), f"memory holds chunks of shape {steps.executed.shape[1:]}")
        if c.remembers and c.codes and recall.codes != self.codes.identity:
            return Proposal(
                np.zeros_like(step.base),
                "what was seen is not recalled as the EFN reads it; name it in codes of experience_retrieval",
            )
        if self._decodes and (reason := self._undecodable(step)):
            return Proposal(np.zeros_like(step.base), reason)
        observation = present_of(step), recalled_of(steps, c)
        residual = self._efn.residual(*observation)
        if self._decodes:
            decoded = latent_residual(self._decode, step.latent, step.visual, residual[0].numpy())
            residual = torch.from_numpy(decoded)[None]
        if self._critics:
            disagreement = self._critics(*observation, residual).std(dim=0, correction=0)
            residual = residual * attenuation(disagreement, self._disagreement_scale)[:, None, None]
        trust = 1.0
        if self._check_memory and c.recent and steps:
            trust = self._efn.trusts(*observation, recent_of(past, step.proprio, c))[0].item()
        return Proposal(self._gain * np.float32(trust) * residual[0].numpy(), trust=trust)

    def _undecodable(self, step: PolicyStep) -> str:
        """Why latent tokens of the step cannot be decoded, empty where they can."""
        if step.visual is None:
            return "the step came without its visual tokens; set publish_visual of vla_policy"
        if step.policy != self._policy:
            return (
                f"the step is of policy {step.policy!r}, but latent tokens are decoded by {self._policy!r}; name the "
                "step's in decoder_policy and decoder_checkpoint of efn_corrector"
            )
        return ""
