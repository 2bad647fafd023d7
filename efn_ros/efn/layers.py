# SPDX-License-Identifier: MIT
"""Layers of the network: cross-attention from the present step to a set of recalled steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efn_ros.efn.batching import Present, Recalled, Recent
from efn_ros.efn.config import EfnConfig
from efn_ros.features.codes import SketchEncoder


class CrossAttention(nn.Module):
    """One pre-norm layer: attention from the query to the memory, then a feedforward network.

    Source: appendix B.
    """

    def __init__(self, c: EfnConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.query_norm, self.memory_norm, self.norm = (nn.LayerNorm(c.width) for _ in range(3))
        self.query, self.out = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)
        self.key_value = nn.Linear(c.width, 2 * c.width)
        self.feedforward = nn.Sequential(
            nn.Linear(c.width, c.feedforward), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.feedforward, c.width)
        )

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attend from the query to the memory.

        Args:
            query: (B, Q, width).
            memory: (B, k, width).
            mask: bool (B, k), False for padding.

        Returns:
            (B, Q, width).
        """
        q = self.query(self.query_norm(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(self.memory_norm(memory)).chunk(2, dim=-1)
        k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        query = query + self.out(attended.transpose(1, 2).flatten(-2))
        return query + self.feedforward(self.norm(query))


class SetEncoder(nn.Module):
    """Encoder of the present step with a set of recalled steps, in any number and order."""

    bound: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor
    motion_std: Tensor
    code_mean: Tensor
    code_basis: Tensor

    def __init__(self, config: EfnConfig, extra_inputs: int = 0) -> None:
        """Build the layers.

        Args:
            config: Sizes.
            extra_inputs: Numbers of further inputs beside the present step.
        """
        super().__init__()
        self.config = c = config
        chunk, proprio, width = c.horizon * c.action_size, len(c.proprio_mean), c.width
        (tokens, channels), (visual_tokens, size) = c.latent, c.sketch
        for name in ("bound", "proprio_mean", "proprio_std", "motion_std"):
            self.register_buffer(name, torch.tensor(getattr(c, name), dtype=torch.float32), persistent=False)
        self.token = nn.Linear(size, c.token_channels)
        self.view = nn.Linear(
            visual_tokens * c.token_channels, width
        )  # each token has its own weights, because it is a place in the image
        self.present = mlp(tokens * channels + width + proprio + chunk + extra_inputs, width)
        self.recalled = mlp(3 * chunk + 4 * proprio + channels + c.code_size + 2, width)
        if c.code_size:  # whitened principal components, fixed so that the bank encodes an image only once
            self.register_buffer("code_mean", torch.zeros(visual_tokens * size))
            self.register_buffer("code_basis", torch.zeros(visual_tokens * size, c.code_size))
        self.null_token = nn.Parameter(torch.zeros(width))  # attended to if no recalled step helps
        self.attention = nn.ModuleList(CrossAttention(c) for _ in range(c.layers))
        self.trunk = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU())

    def code(self, sketch: Tensor) -> Tensor:
        """Return the image codes (..., code_size) of sketches (..., T, d)."""
        if not self.config.code_size:
            return sketch.new_zeros((*sketch.shape[:-2], 0))
        return (sketch.flatten(-2) - self.code_mean) @ self.code_basis

    @property
    def codes(self) -> SketchEncoder | None:
        """Encoder of image codes, for retrieval; None if the network uses none."""
        return SketchEncoder(self.code_mean.numpy(), self.code_basis.numpy()) if self.config.code_size else None

    def motion(self, steps: Recalled | Recent) -> Tensor:
        """Return the description of the robot's motion in steps, (B, k, motion_size)."""
        return torch.cat(
            [
                steps.executed.flatten(2),
                steps.executed_before.flatten(2),
                (steps.proprio - self.proprio_mean) / self.proprio_std,
                (steps.proprio_next - steps.proprio) / self.motion_std,
                (steps.proprio - steps.proprio_before) / self.motion_std,  # the velocity at the beginning of the step
            ],
            dim=-1,
        )

    def features(self, present: Present, recalled: Recalled, *extra: Tensor) -> Tensor:
        """Return the context (B, width).

        Unlike in the paper, the instruction embedding is no input: only the retrieval filter (17) uses the instruction.

        Args:
            present: The present steps.
            recalled: Their recalled steps.
            *extra: Tensors (B, ...) with `extra_inputs` numbers together.

        Source: equation (10).
        """
        proprio = (present.proprio - self.proprio_mean) / self.proprio_std
        latent = F.layer_norm(present.latent, present.latent.shape[-1:])
        view = self.view(self.token(present.sketch).flatten(1))
        now = [latent.flatten(1), view, proprio, present.base.flatten(1), *(x.flatten(1) for x in extra)]
        query = self.present(torch.cat(now, dim=-1))[:, None]
        memory = self.recalled(
            torch.cat(
                [
                    self.motion(recalled),
                    (recalled.executed - recalled.base).flatten(2),
                    (recalled.proprio - present.proprio[:, None]) / self.proprio_std,
                    F.layer_norm(recalled.latent, recalled.latent.shape[-1:]),
                    recalled.code,
                    recalled.success[..., None],
                    recalled.similarity[..., None],
                ],
                dim=-1,
            )
        )
        mask = recalled.mask & self.config.use_memory
        mean = masked_mean(memory, mask)
        memory = torch.cat([memory, self.null_token.expand(len(memory), 1, -1)], dim=1)
        mask = F.pad(mask, (0, 1), value=True)
        for layer in self.attention:
            query = layer(query, memory, mask)
        return self.trunk(torch.cat([query[:, 0], mean], dim=-1))


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, width) of tokens (B, k, width) over a mask (B, k); zero for an empty mask."""
    weight = mask.float()[..., None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def mlp(size: int, width: int) -> nn.Sequential:
    """Return two linear layers with a GELU between."""
    return nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, width))
