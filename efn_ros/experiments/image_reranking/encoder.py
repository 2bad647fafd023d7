"""Images and instructions as vectors of one space: z and t of (33)(34)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from efn_ros.experiments.image_reranking.checkpoints import Checkpoint, check_image


class ContrastiveEncoder:
    """A frozen contrastive image-text model: CLIP, SigLIP, ALIGN, or any other with the same two methods.

    `identity` changes whenever its weights do.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model, self._processor, self.identity = checkpoint.model, checkpoint.processor, checkpoint.identity

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str = "cpu", local_files_only: bool = True
    ) -> ContrastiveEncoder:
        """Options and errors are those of `Checkpoint.load`; raises ValueError for a model of another kind too."""
        checkpoint = Checkpoint.load(AutoModel, name, device=device, local_files_only=local_files_only)
        if not all(hasattr(checkpoint.model, method) for method in ("get_image_features", "get_text_features")):
            raise ValueError(
                f"{name} holds a {type(checkpoint.model).__name__}, which puts images and texts in no common space; "
                "name a contrastive model such as CLIP or SigLIP"
            )
        return cls(checkpoint)

    @torch.inference_mode()
    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Of N images, each uint8 (height, width, 3) RGB, in one forward pass: float32 (N, dz) of unit norm."""
        for image in images:
            check_image(image)
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._model.device)
        return _vectors(self._model.get_image_features(**inputs))

    @lru_cache(maxsize=64)  # noqa: B019 - one encoder a process
    @torch.inference_mode()
    def text(self, instruction: str) -> np.ndarray:
        """float32 (dz,) of unit norm, kept. What is longer than the model reads is cut off."""
        # SigLIP was trained on texts padded to the end; those that were not mask what is padded.
        longest = min(
            self._processor.tokenizer.model_max_length, self._model.config.text_config.max_position_embeddings
        )
        inputs = self._processor(
            text=[instruction], padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(self._model.device)
        return _vectors(self._model.get_text_features(**inputs))[0]


def _vectors(output: Tensor | object) -> np.ndarray:
    """Unit vectors (N, dz) of what a model returns: since 5.0 `transformers` wraps the tensor it returned before."""
    features = getattr(output, "pooler_output", output)
    if features.ndim != 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; an image or a text needs one vector")
    return F.normalize(features, dim=1).cpu().numpy()
