# SPDX-License-Identifier: MIT
"""A backbone for efn_ros: the smallest network that has every part of a vision-language-action policy.

Its weights are random unless you name a checkpoint, so it does no task. Put your own model in place of `TinyVla`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from efn_ros.policies import PolicyOutput, PolicySpec
from efn_ros.types import Observation

CAMERAS, IMAGE_SIZE, PATCH = ("left", "right"), 96, 24
PROPRIO, ACTION, HORIZON = 4, 4, 8
WIDTH, LATENT_TOKENS, HEADS = 128, 4, 4  # WIDTH is tokens_width of the graph
TOKENS = len(CAMERAS) * (IMAGE_SIZE // PATCH) ** 2


class TinyVla(nn.Module):
    """Images become visual tokens V; queries attend to them and become latent action tokens Z; Z and V give actions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.words = nn.Embedding(256, WIDTH)  # one for each byte of the instruction
        self.proprio = nn.Linear(PROPRIO, WIDTH)
        self.queries = nn.Parameter(torch.randn(LATENT_TOKENS, WIDTH))
        self.read = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.look_up = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, HORIZON * ACTION // LATENT_TOKENS)

    def embed(self, instruction: str) -> Tensor:
        """Return the embedding (E,) of an instruction."""
        return self.words(torch.tensor(list(instruction.lower().encode()))).mean(dim=0)

    def encode(self, images: Tensor, proprio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return Z (L, dz) and V (T, D) for images (C, 3, size, size), proprioception (P,) and text (E,)."""
        visual = self.patches(images).flatten(2).transpose(1, 2).flatten(0, 1)
        queries = self.queries + self.proprio(proprio) + text
        latent, _ = self.read(queries[None], visual[None], visual[None])
        return latent[0], visual

    def forward(self, latent: Tensor, visual: Tensor) -> Tensor:
        """Decode Z (B, L, dz) and V (B, T, D) to actions (B, H, A)."""
        found, _ = self.look_up(latent, visual, visual)
        return torch.tanh(self.head(latent + found)).reshape(-1, HORIZON, ACTION)


class TinyPolicy:
    """`TinyVla` as a frozen policy: implements `efn_ros.policies.FrozenPolicy`."""

    def __init__(self, network: TinyVla) -> None:
        self._network = network.eval().requires_grad_(False)
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        self.spec = PolicySpec(
            name="tiny_vla",
            cameras=CAMERAS,
            image_size=IMAGE_SIZE,
            proprio_size=PROPRIO,
            horizon=HORIZON,
            action_size=ACTION,
            tokens=(TOKENS, WIDTH),
            latent=(LATENT_TOKENS, WIDTH),
            fingerprint=f"tiny_vla-{digest.hexdigest()}",  # other weights, another fingerprint
        )

    @torch.inference_mode()
    def embed_instruction(self, instruction: str) -> np.ndarray:
        """Return the embedding of an instruction, float32 (E,) of unit norm."""
        embedding = self._network.embed(instruction).numpy()
        return embedding / np.linalg.norm(embedding)

    @torch.inference_mode()
    def infer(self, observation: Observation) -> PolicyOutput:
        """Return visual tokens, latent action tokens and the base action chunk for an observation."""
        images = np.stack([observation.images[camera] for camera in self.spec.cameras])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1.0
        text = self._network.embed(observation.context.instruction)
        latent, visual = self._network.encode(pixels, torch.from_numpy(observation.proprio), text)
        action = self._network(latent[None], visual[None])[0]
        return PolicyOutput(latent=latent.numpy(), visual=visual.numpy(), action=action.numpy())

    @torch.inference_mode()
    def decode(self, latent: np.ndarray, visual: np.ndarray) -> np.ndarray:
        """Return the action chunk (H, A) of Z and V.

        Raises:
            ValueError: The tokens have another shape.
        """
        if latent.shape != self.spec.latent or visual.shape != self.spec.tokens:
            raise ValueError(
                f"tokens have shapes {latent.shape} and {visual.shape}; tiny_vla takes {self.spec.latent} and "
                f"{self.spec.tokens}"
            )
        return self._network(torch.from_numpy(latent)[None], torch.from_numpy(visual)[None])[0].numpy()

    def decoder(self) -> nn.Module:
        """Return `decode` in batches, through which gradients flow to Z."""
        return self._network


def load(checkpoint: str | Path, threads: int) -> TinyPolicy:
    """Load the policy; this is the entry point.

    Args:
        checkpoint: Parameter `checkpoint` of vla_policy: a safetensors file; empty: random weights, always the same.
        threads: Parameter `threads`: of inference on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
    """
    torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TinyVla()
    if checkpoint:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint of tiny_vla at {path}; leave `checkpoint` empty for random weights")
        network.load_state_dict(load_file(path))
    return TinyPolicy(network)
