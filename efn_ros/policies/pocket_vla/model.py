# SPDX-License-Identifier: MIT
"""The network of PocketVLA: images, instruction and proprioception to tokens, tokens to an action chunk.

A convolutional stem, conditioned on the instruction, gives the patches of each camera and a few keypoints (expected
positions under a softmax over the feature map). Both become the visual tokens V. The latent action tokens Z read V,
proprioception and instruction by cross-attention. A small decoder turns Z and V into an action chunk.
Shapes: B batch, C cameras, S image side in pixels, T visual tokens, L latent tokens, D width, H horizon, A action size,
P proprioception size, E text width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel


class PocketVlaConfig(PretrainedConfig):
    """Sizes of the network."""

    model_type = "pocket_vla"

    def __init__(
        self,
        cameras: tuple[str, ...] = ("left", "right"),
        image_size: int = 96,
        proprio_size: int = 4,
        proprio_mean: tuple[float, ...] = (0.0, 0.6, 0.2, 0.5),
        proprio_std: tuple[float, ...] = (0.15, 0.1, 0.1, 0.5),
        action_low: tuple[float, ...] = (-1.0, -1.0, -1.0, -1.0),
        action_high: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
        horizon: int = 4,
        width: int = 128,
        heads: int = 4,
        latent_tokens: int = 4,
        keypoints: int = 32,
        keypoint_tokens: int = 4,
        vocabulary_size: int = 512,
        text_width: int = 64,
        **kwargs,
    ) -> None:
        """Store the sizes.

        Args:
            cameras: Names of the images, in this order.
            image_size: S, a multiple of 16.
            proprio_size: P.
            proprio_mean: (P,), subtracted from proprioception, in its own units.
            proprio_std: (P,), by which proprioception is divided.
            action_low: (A,), lower bounds of an action; the tanh of the decoder is scaled to the bounds.
            action_high: (A,), upper bounds.
            horizon: H.
            width: D.
            heads: Attention heads.
            latent_tokens: L.
            keypoints: For each camera.
            keypoint_tokens: Visual tokens made of the keypoints of a camera.
            vocabulary_size: Of the tokenizer.
            text_width: E, of an instruction embedding.
            **kwargs: Of `PretrainedConfig`.
        """
        super().__init__(**kwargs)
        self.cameras = list(cameras)
        self.image_size = image_size
        self.proprio_size = proprio_size
        self.proprio_mean = list(proprio_mean)
        self.proprio_std = list(proprio_std)
        self.action_low = list(action_low)
        self.action_high = list(action_high)
        self.horizon = horizon
        self.width = width
        self.heads = heads
        self.latent_tokens = latent_tokens
        self.keypoints = keypoints
        self.keypoint_tokens = keypoint_tokens
        self.vocabulary_size = vocabulary_size
        self.text_width = text_width


class Film(nn.Module):
    """Feature-wise linear modulation of a feature map by the instruction.

    Source: arXiv:1709.07871.
    """

    def __init__(self, text_width: int, channels: int) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(text_width, 2 * channels)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Modulate x (B, channels, height, width) by text (B, text_width)."""
        scale, shift = self.scale_shift(text)[..., None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class Block(nn.Module):
    """Pre-norm attention, then a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_x, self.norm_context, self.norm_ffn = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key_value, self.out = (nn.Linear(width, size) for size in (width, 2 * width, width))
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from x (B, N, width) to context (B, M, width), or to x itself if there is none: (B, N, width)."""
        context = self.norm_context(x if context is None else context)
        query = self.query(self.norm_x(x))
        key, value = self.key_value(context).chunk(2, dim=-1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        # For so few tokens explicit attention trains twice as fast on a CPU as the fused kernel.
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x + self.ffn(self.norm_ffn(x))


class PocketVla(PreTrainedModel):
    """The network; its parameters are those that a checkpoint names."""

    config_class = PocketVlaConfig
    base_model_prefix = "pocket_vla"
    proprio_mean: Tensor
    proprio_std: Tensor
    action_low: Tensor
    action_high: Tensor

    def __init__(self, config: PocketVlaConfig) -> None:
        super().__init__(config)
        c, d = config, config.width
        cameras, grid = len(c.cameras), c.image_size // 16
        self.text_embedding = nn.Embedding(c.vocabulary_size, c.text_width)
        self.text_mlp = nn.Sequential(nn.Linear(c.text_width, 128), nn.GELU(), nn.Linear(128, c.text_width))

        self.conv1 = nn.Conv2d(3, 64, 8, 4, 2)
        self.conv2, self.conv3 = (nn.Conv2d(64, 64, 3, 1, 1) for _ in range(2))
        self.film2, self.film3 = Film(c.text_width, 64), Film(c.text_width, 64)
        self.to_patches = nn.Conv2d(64, d, 4, 4)
        self.to_heatmaps = nn.Conv2d(64, c.keypoints, 1)
        self.from_keypoints = nn.Linear(2 * c.keypoints, c.keypoint_tokens * d)
        self.position = nn.Parameter(0.02 * torch.randn(cameras, grid * grid + c.keypoint_tokens, d))
        self.vision_block, self.vision_norm = Block(d, c.heads), nn.LayerNorm(d)

        self.proprio_token, self.text_token = nn.Linear(c.proprio_size, d), nn.Linear(c.text_width, d)
        inputs = 2 * c.keypoints * cameras + c.proprio_size + c.text_width
        self.intent = nn.Sequential(nn.Linear(inputs, 512), nn.GELU(), nn.Linear(512, c.latent_tokens * d))
        self.latent_blocks = nn.ModuleList(Block(d, c.heads) for _ in range(2))
        self.latent_norm = nn.LayerNorm(d)

        self.pool_query = nn.Parameter(0.02 * torch.randn(1, 1, d))
        self.pool_block = Block(d, c.heads)
        self.decoder = nn.Sequential(
            nn.Linear((c.latent_tokens + 1) * d, 512), nn.GELU(), nn.Linear(512, c.horizon * len(c.action_low))
        )
        coordinates = (torch.arange(4 * grid) + 0.5) / (2 * grid) - 1.0  # of the centres of the cells
        self.register_buffer("grid_x", coordinates.repeat(4 * grid))
        self.register_buffer("grid_y", coordinates.repeat_interleave(4 * grid))
        for name in ("proprio_mean", "proprio_std", "action_low", "action_high"):
            self.register_buffer(name, torch.tensor(getattr(c, name), dtype=torch.float32))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the initialisation of PyTorch."""

    def embed_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean embedding (B, E) of the tokens of instructions; ids and mask are (B, N)."""
        return (self.text_embedding(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def encode(self, images: Tensor, proprio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent action tokens Z (B, L, D) and the visual tokens V (B, T, D).

        Args:
            images: (B, C, 3, S, S) in [-1, 1].
            proprio: (B, P).
            text: (B, E), of `embed_text`.

        Source: equation (1).
        """
        visual, points, _ = self.encode_images(images, text)
        return self.encode_latents(visual, points, proprio, text), visual

    def encode_images(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return visual tokens and keypoints.

        Args:
            images: (B, C, 3, S, S) in [-1, 1].
            text: (B, E), of `embed_text`.

        Returns:
            V (B, T, D); the expected positions of the keypoints (B, C * 2 * keypoints) in [-1, 1]; and the logarithms
            of their heatmaps (B, C, keypoints, (S / 4) ** 2), up to a constant.
        """
        b, cameras = images.shape[:2]
        text = self._text_features(text).repeat_interleave(cameras, dim=0)
        x = F.relu(self.conv1(images.flatten(0, 1)))
        x = F.relu(self.film2(self.conv2(x), text))
        x = F.relu(self.film3(self.conv3(x), text))
        heatmaps = self.to_heatmaps(x).flatten(2).float()
        weights = heatmaps.softmax(-1)
        points = torch.cat([(weights * self.grid_x).sum(-1), (weights * self.grid_y).sum(-1)], dim=-1)
        patches = self.to_patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches, self.from_keypoints(points).unflatten(-1, (-1, patches.shape[-1]))], dim=1)
        visual = (tokens.unflatten(0, (b, cameras)) + self.position).flatten(1, 2)
        points, heatmaps = points.unflatten(0, (b, cameras)).flatten(1), heatmaps.unflatten(0, (b, cameras))
        return self.vision_norm(self.vision_block(visual)), points, heatmaps

    def encode_latents(self, visual: Tensor, points: Tensor, proprio: Tensor, text: Tensor) -> Tensor:
        """Return Z (B, L, D).

        Args:
            visual: V, (B, T, D).
            points: (B, C * 2 * keypoints), of `encode_images`.
            proprio: (B, P).
            text: (B, E), of `embed_text`.
        """
        text, proprio = self._text_features(text), (proprio - self.proprio_mean) / self.proprio_std
        latent = self.intent(torch.cat([points, proprio, text], dim=-1)).unflatten(-1, (-1, visual.shape[-1]))
        context = torch.cat([visual, self.proprio_token(proprio)[:, None], self.text_token(text)[:, None]], dim=1)
        for block in self.latent_blocks:
            latent = block(latent, context)
        return self.latent_norm(latent)

    def _text_features(self, text: Tensor) -> Tensor:
        return text + self.text_mlp(text)

    def decode(self, latent: Tensor, visual: Tensor) -> Tensor:
        """Return the actions (B, H, A), within their bounds, of Z (B, L, D) and V (B, T, D).

        Source: equation (2).
        """
        pooled = self.pool_block(self.pool_query.expand(len(visual), -1, -1), visual)
        chunk = self.decoder(torch.cat([latent, pooled], dim=1).flatten(1)).unflatten(-1, (self.config.horizon, -1))
        middle, half = (self.action_high + self.action_low) / 2, (self.action_high - self.action_low) / 2
        return middle + half * torch.tanh(chunk.float())


class Decoder(nn.Module):
    """`PocketVla.decode` as a module, with the weights of the model."""

    def __init__(self, model: PocketVla) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor, visual: Tensor) -> Tensor:
        """Return the actions (B, H, A) of Z (B, L, D) and V (B, T, D)."""
        return self.model.decode(latent, visual)
