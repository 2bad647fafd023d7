# SPDX-License-Identifier: MIT
"""PocketVLA as a frozen policy."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from efn_ros.policies.pocket_vla.model import Decoder, PocketVla, PocketVlaConfig
from efn_ros.policies.pocket_vla.processor import PocketVlaProcessor, train_tokenizer
from efn_ros.policies.policy import PolicyOutput, PolicySpec
from efn_ros.resources import checkpoint_directory
from efn_ros.types import Observation

PACKAGED = Path(__file__).resolve().parent / "checkpoints"


class PocketVlaPolicy:
    """Runs the network on the CPU in float32; deterministic."""

    def __init__(self, model: PocketVla, processor: PocketVlaProcessor, *, name: str, threads: int = 1) -> None:
        """Freeze a network.

        Args:
            model: The network.
            processor: Of its inputs.
            name: Of the policy, which begins its fingerprint.
            threads: Of inference.
        """
        torch.set_num_threads(threads)
        self._model, self._processor = model.eval().requires_grad_(False), processor
        c = model.config
        digest = hashlib.blake2b(digest_size=8)
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode() + value.numpy().tobytes())
        patches = (c.image_size // 16) ** 2
        self.spec = PolicySpec(
            name=name,
            cameras=tuple(c.cameras),
            image_size=c.image_size,
            proprio_size=c.proprio_size,
            horizon=c.horizon,
            action_size=len(c.action_low),
            tokens=(len(c.cameras) * (patches + c.keypoint_tokens), c.width),
            latent=(c.latent_tokens, c.width),
            fingerprint=f"{name}-{digest.hexdigest()}",
        )

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path = "", *, threads: int = 1) -> PocketVlaPolicy:
        """Load a checkpoint.

        Args:
            checkpoint: As `checkpoint_directory` takes it.
            threads: Of inference.

        Raises:
            FileNotFoundError: The directory holds no checkpoint.
        """
        directory = checkpoint_directory(checkpoint, PACKAGED)
        if not (directory / "config.json").is_file():
            raise FileNotFoundError(f"no PocketVLA checkpoint in {directory}: config.json is missing")
        model = PocketVla.from_pretrained(directory, local_files_only=True)
        processor = PocketVlaProcessor(PreTrainedTokenizerFast.from_pretrained(directory))
        return cls(model, processor, name="pocket_vla", threads=threads)

    @classmethod
    def untrained(cls, *, seed: int = 0, threads: int = 1, **config: Any) -> PocketVlaPolicy:
        """Return a network with random weights: it tests a graph and does no task.

        Args:
            seed: Of the weights.
            threads: Of inference.
            **config: Of `PocketVlaConfig`.
        """
        tokenizer = train_tokenizer([], 512)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = PocketVla(PocketVlaConfig(vocabulary_size=len(tokenizer), **config))
        return cls(model, PocketVlaProcessor(tokenizer), name="untrained", threads=threads)

    def embed_instruction(self, instruction: str) -> np.ndarray:
        """Return the mean token embedding of an instruction, float32 (E,) of unit norm."""
        text = self._embed(instruction)[0].numpy()
        return text / np.linalg.norm(text)

    @torch.inference_mode()
    def infer(self, observation: Observation) -> PolicyOutput:
        """Return the tokens and the base action chunk for an observation."""
        images = np.stack([observation.images[camera] for camera in self.spec.cameras])
        proprio = torch.from_numpy(np.asarray(observation.proprio, np.float32))
        text = self._embed(observation.context.instruction)
        latent, visual = self._model.encode(self._processor.pixels(images)[None], proprio[None], text)
        action = self._model.decode(latent, visual)
        return PolicyOutput(latent=latent[0].numpy(), visual=visual[0].numpy(), action=action[0].numpy())

    @torch.inference_mode()
    def decode(self, latent: np.ndarray, visual: np.ndarray) -> np.ndarray:
        """Return the action chunk (H, A) of Z (L, dz) and V (T, D).

        Raises:
            ValueError: The tokens have another shape.
        """
        for name, found, expected in (
            ("latent tokens", latent.shape, self.spec.latent),
            ("visual tokens", visual.shape, self.spec.tokens),
        ):
            if found != expected:
                raise ValueError(f"{name} have shape {found}; the decoder of {self.spec.name} takes {expected}")
        return self._model.decode(torch.from_numpy(latent)[None], torch.from_numpy(visual)[None])[0].numpy()

    def decoder(self) -> Decoder:
        """Return `decode` in batches, through which gradients flow to Z."""
        return Decoder(self._model)

    @lru_cache(maxsize=64)  # noqa: B019 - a process has one policy
    @torch.inference_mode()
    def _embed(self, instruction: str) -> torch.Tensor:
        encoded = self._processor.tokenize([instruction])
        return self._model.embed_text(encoded["input_ids"], encoded["attention_mask"])
