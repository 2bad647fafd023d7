# SPDX-License-Identifier: MIT
"""From camera images and instructions to the inputs of the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BatchEncoding, BatchFeature, PreTrainedTokenizerFast, ProcessorMixin


class PocketVlaProcessor(ProcessorMixin):
    """Scales uint8 images to [-1, 1] and tokenizes instructions; images have the size of the network already."""

    attributes = ["tokenizer"]
    tokenizer_class = "PreTrainedTokenizerFast"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, **kwargs: Any) -> None:
        super().__init__(tokenizer, **kwargs)

    def __call__(self, images: np.ndarray, text: Sequence[str]) -> BatchFeature:
        """Return `pixel_values` (B, C, 3, S, S), and `input_ids` and `attention_mask` (B, N).

        Args:
            images: uint8 (B, C, S, S, 3) RGB.
            text: B instructions.
        """
        return BatchFeature({"pixel_values": self.pixels(images), **self.tokenize(text)})

    @staticmethod
    def pixels(images: np.ndarray) -> torch.Tensor:
        """Return images uint8 (..., S, S, 3) as float32 (..., 3, S, S) in [-1, 1]."""
        return torch.from_numpy(images).movedim(-1, -3).float() / 127.5 - 1.0

    def tokenize(self, text: Sequence[str]) -> BatchEncoding:
        """Return `input_ids` and `attention_mask` (B, N) of B instructions; case does not matter."""
        return self.tokenizer([t.lower() for t in text], padding=True, return_tensors="pt")


def train_tokenizer(instructions: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of instructions; any other text falls back to its bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(instructions, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
    )
