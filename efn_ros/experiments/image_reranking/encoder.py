# SPDX-License-Identifier: MIT
"""Images and instructions as vectors of one space: z and t of (33) and (34)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModel

from efn_ros.experiments.image_reranking.checkpoints import Checkpoint, check_image

IMAGE_AND_TEXT = ("get_image_features", "get_text_features")  # methods of a contrastive model


class ContrastiveEncoder:
    """A frozen contrastive image-text model: CLIP, SigLIP, ALIGN, or another with the same two methods.

    Attributes:
        identity: Changes whenever the weights do.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model, self._processor, self.identity = checkpoint.model, checkpoint.processor, checkpoint.identity
        self._encode_images, self._encode_text = (getattr(checkpoint.model, method) for method in IMAGE_AND_TEXT)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str = "cpu", local_files_only: bool = True
    ) -> ContrastiveEncoder:
        """Load a model; arguments and errors are those of `Checkpoint.load`.

        Raises:
            ValueError: The model has no common space of images and texts.
        """
        checkpoint = Checkpoint.load(AutoModel, name, device=device, local_files_only=local_files_only)
        if not all(hasattr(checkpoint.model, method) for method in IMAGE_AND_TEXT):
            raise ValueError(
                f"{name} holds a {type(checkpoint.model).__name__}, which has no common space of images and texts; "
                "name a contrastive model such as CLIP or SigLIP"
            )
        return cls(checkpoint)

    @torch.inference_mode()
    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return vectors of unit norm, float32 (N, dz), of N images, each uint8 (height, width, 3) RGB.

        Raises:
            ValueError: An image has another dtype or shape.
        """
        for image in images:
            check_image(image)
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._model.device)
        return _vectors(self._encode_images(**inputs))

    @lru_cache(maxsize=64)  # noqa: B019 - one encoder a process
    @torch.inference_mode()
    def text(self, instruction: str) -> np.ndarray:
        """Return the vector of unit norm of an instruction, float32 (dz,); one too long for the model is truncated."""
        # SigLIP was trained on padded texts; the other models mask the padding.
        longest = min(
            self._processor.tokenizer.model_max_length, self._model.config.text_config.max_position_embeddings
        )
        inputs = self._processor(
            text=[instruction], padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(self._model.device)
        return _vectors(self._encode_text(**inputs))[0]


def _vectors(output: Any) -> np.ndarray:
    """Unit vectors (N, dz) of a model's output: a tensor, which `transformers` wraps since 5.0."""
    features = getattr(output, "pooler_output", output)
    if features.ndim != 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; an image or a text needs one vector")
    return F.normalize(features, dim=1).cpu().numpy()
