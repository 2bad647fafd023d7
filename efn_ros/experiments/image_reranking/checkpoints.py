# SPDX-License-Identifier: MIT
"""Frozen networks from checkpoints of `transformers`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoProcessor, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Checkpoint:
    """A frozen network with the processor of its inputs."""

    model: PreTrainedModel  # float32, without gradients
    processor: ProcessorMixin  # prepares images and text for the model
    identity: str  # digest of the weights and of the image processor's settings

    @classmethod
    def load(
        cls,
        kind: type,
        name: str | Path,
        *,
        known: Collection[str] = (),
        device: str = "cpu",
        local_files_only: bool = True,
    ) -> Checkpoint:
        """Load a checkpoint.

        Weights are read from safetensors alone, and no code of the checkpoint runs. Pillow and NumPy process images,
        whatever else is installed, so that features are the same on every machine.

        Args:
            kind: The class of `transformers` that loads it, such as AutoModel.
            name: A directory, or a name on the Hugging Face hub.
            known: Accepted model types; empty: any.
            device: Of the network.
            local_files_only: False: download what is not on this machine.

        Raises:
            OSError: There is no such checkpoint, or it has no safetensors.
            ValueError: It is of another type, lacks weights, or does not take both images and texts.
        """
        name = os.path.expanduser(name)
        options = {"local_files_only": local_files_only, "trust_remote_code": False}
        try:
            model_type = AutoConfig.from_pretrained(name, **options).model_type
            if known and model_type not in known:
                raise ValueError(f"{name} holds a model of type {model_type!r}; name one of {', '.join(known)}")
            model, report = kind.from_pretrained(
                name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
            processor = AutoProcessor.from_pretrained(name, backend="pil", **options)
        except OSError as error:
            remedy = "name a directory that holds it, or connect to the hub"
            raise OSError(f"checkpoint {name} cannot be read; {remedy}: {error}") from error
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ValueError(f"{name} lacks {len(missing)} weights, {missing[0]} among them; name a whole checkpoint")
        if not isinstance(processor, ProcessorMixin):
            raise ValueError(f"{name} holds a {type(model).__name__}, no model of images and texts; name one")
        digest = hashlib.blake2b(processor.image_processor.to_json_string().encode(), digest_size=8)
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode() + value.numpy().tobytes())
        model = model.requires_grad_(False).to(device)
        return cls(model, processor, f"{model_type}-{digest.hexdigest()}")


def check_image(image: np.ndarray) -> None:
    """Check that an image is uint8 (height, width, 3) and not empty.

    Raises:
        ValueError: It is not.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3)")
