"""What turns camera images and an instruction into the network's inputs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin


class PocketVlaProcessor(ProcessorMixin):
    """uint8 images to [-1, 1], and an instruction to token ids. Nothing is resized: that is done where images enter."""

    attributes = ["tokenizer"]
    tokenizer_class = "PreTrainedTokenizerFast"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, **kwargs) -> None:
        super().__init__(tokenizer, **kwargs)

    def __call__(self, images: np.ndarray, text: list[str]) -> BatchFeature:
        """images: uint8 (B, C, S, S, 3) RGB; text: B instructions -> pixel_values (B, C, 3, S, S), input_ids and
        attention_mask (B, N)."""
        encoded = self.tokenizer([t.lower() for t in text], padding=True, return_tensors="pt")
        pixels = torch.from_numpy(images).movedim(-1, -3).float() / 127.5 - 1.0
        return BatchFeature({"pixel_values": pixels, **encoded})


def train_tokenizer(instructions: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over `instructions`; any other text falls back to its bytes."""
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
