"""Cross-attention from the present step to a set of recalled steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efn_ros.efn.batching import Present, Recalled, Recent
from efn_ros.efn.config import EfnConfig
from efn_ros.features.codes import Codes


class CrossAttention(nn.Module):
    """One pre-norm layer: the query attends to the memory, then thinks it over."""

    def __init__(self, c: EfnConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.query_norm, self.memory_norm, self.norm = (nn.LayerNorm(c.width) for _ in range(3))
        self.query, self.out = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)
        self.key_value = nn.Linear(c.width, 2 * c.width)
        self.feedforward = nn.Sequential(
            nn.Linear(c.width, c.feedforward), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.feedforward, c.width)
        )

    def forward(self, query: Tensor, memory: Tensor, there: Tensor) -> Tensor:
        """query (B, Q, width), memory (B, k, width), there (B, k) -> (B, Q, width)."""
        q = self.query(self.query_norm(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(self.memory_norm(memory)).chunk(2, dim=-1)
        k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None, :])
        query = query + self.out(attended.transpose(1, 2).flatten(-2))
        return query + self.feedforward(self.norm(query))


class SetEncoder(nn.Module):
    """What the present step and those recalled say together: the part that actor and critics have in common."""

    def __init__(self, config: EfnConfig, beside: int = 0) -> None:
        """beside: numbers that are read with the present step."""
        super().__init__()
        self.config = c = config
        chunk, proprio, width = c.horizon * c.action_size, len(c.proprio_mean), c.width
        (tokens, channels), (seen, size) = c.latent, c.sketch
        for name in ("bound", "proprio_mean", "proprio_std", "motion_std"):
            self.register_buffer(name, torch.tensor(getattr(c, name), dtype=torch.float32), persistent=False)
        self.token = nn.Linear(size, c.channels)
        self.view = nn.Linear(seen * c.channels, width)  # where things are in the image is in which token says it
        self.present = _mlp(tokens * channels + width + proprio + chunk + beside, width)
        self.recalled = _mlp(3 * chunk + 4 * proprio + channels + c.codes + 2, width)
        if c.codes:  # fixed, so that what memory saw is read once: principal components, whitened
            self.register_buffer("code_mean", torch.zeros(seen * size))
            self.register_buffer("code_basis", torch.zeros(seen * size, c.codes))
        self.nothing = nn.Parameter(torch.zeros(width))  # what is attended to where no memory helps
        self.attention = nn.ModuleList(CrossAttention(c) for _ in range(c.layers))
        self.trunk = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU())

    def code(self, sketch: Tensor) -> Tensor:
        """What is kept of sketches (..., T, d): (..., codes)."""
        if not self.config.codes:
            return sketch.new_zeros((*sketch.shape[:-2], 0))
        return (sketch.flatten(-2) - self.code_mean) @ self.code_basis

    @property
    def codes(self) -> Codes | None:
        """What encodes for it what recalled steps saw."""
        return Codes(self.code_mean.numpy(), self.code_basis.numpy()) if self.config.codes else None

    def motion(self, steps: Recalled | Recent) -> Tensor:
        """How the robot moved in steps, (B, k, motion)."""
        return torch.cat(
            [
                steps.executed.flatten(2),
                steps.executed_before.flatten(2),
                (steps.proprio - self.proprio_mean) / self.proprio_std,
                (steps.proprio_next - steps.proprio) / self.motion_std,
                (steps.proprio - steps.proprio_before) / self.motion_std,  # an arm does not stop at once
            ],
            dim=-1,
        )

    def features(self, present: Present, recalled: Recalled, *beside: Tensor) -> Tensor:
        """(B, width); beside: (B, ...) each, so many numbers as were announced."""
        proprio = (present.proprio - self.proprio_mean) / self.proprio_std
        latent = F.layer_norm(present.latent, present.latent.shape[-1:])
        view = self.view(self.token(present.sketch).flatten(1))
        now = [latent.flatten(1), view, proprio, present.base.flatten(1), *(x.flatten(1) for x in beside)]
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
        there = recalled.there & self.config.remembers
        counted = there.float()[..., None]
        mean = (memory * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        memory = torch.cat([memory, self.nothing.expand(len(memory), 1, -1)], dim=1)
        attended = F.pad(there, (0, 1), value=True)
        for layer in self.attention:
            query = layer(query, memory, attended)
        return self.trunk(torch.cat([query[:, 0], mean], dim=-1))


def _mlp(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, width))
