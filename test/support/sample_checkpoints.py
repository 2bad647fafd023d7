# SPDX-License-Identifier: MIT
"""Checkpoints in the format of `transformers`, of small random networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlignConfig,
    AlignModel,
    AlignProcessor,
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    EfficientNetImageProcessorPil,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    SwinConfig,
)

WORDS = "pick up the red cup and place it on robot gripper plate open drawer".split()
LONGEST, SIDE = 12, 32
END = 3 + len(WORDS)  # the largest token, which OWL-ViT takes as the end
SQUARE = {"height": SIDE, "width": SIDE}
LAYERS = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
TEXT = LAYERS | dict(
    vocab_size=END + 1, max_position_embeddings=LONGEST, pad_token_id=0, bos_token_id=1, eos_token_id=END
)
VISION = LAYERS | dict(image_size=SIDE, patch_size=8)
BERT = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}  # BERT's own numbers


def tokenizer(**options) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS, "</s>"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", END)]
    )
    named = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=made, **named, **options)


def bert_tokenizer() -> BertTokenizer:
    """Return a tokenizer with the special tokens of BERT."""
    return BertTokenizer(vocab=BERT | {word: i for i, word in enumerate(WORDS, start=1)})


def enlarge_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Set weights so large that different inputs give clearly different outputs."""
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=weights[0].numel() ** -0.5)
    return model


def clip():
    """Return a small CLIP with its processor."""
    model = enlarge_weights(CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)))
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return model, CLIPProcessor(images, tokenizer(model_max_length=LONGEST))


def siglip():
    """Return a small SigLIP; its tokenizer, as SigLIP 2's, has neither a longest text nor a mask of padding."""
    model = enlarge_weights(SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)))
    return model, SiglipProcessor(SiglipImageProcessorPil(size=SQUARE), tokenizer(model_input_names=["input_ids"]))


def align():
    """Return a small ALIGN with its processor."""
    text = BertConfig(**LAYERS, vocab_size=1100, max_position_embeddings=LONGEST)
    vision = dict(
        image_size=SIDE, width_coefficient=1.0, depth_coefficient=1.0, kernel_sizes=[3], in_channels=[32],
        out_channels=[16], strides=[1], num_block_repeats=[1], expand_ratios=[1], depthwise_padding=[], hidden_dim=16,
    )  # fmt: skip
    model = enlarge_weights(
        AlignModel(AlignConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=16))
    )
    return model, AlignProcessor(EfficientNetImageProcessorPil(size=SQUARE), bert_tokenizer())


def owlvit():
    """Return a small OWL-ViT with its processor."""
    model = enlarge_weights(
        OwlViTForObjectDetection(OwlViTConfig(text_config=TEXT, vision_config=VISION, projection_dim=16))
    )
    return model, OwlViTProcessor(OwlViTImageProcessorPil(size=SQUARE), tokenizer(model_max_length=LONGEST))


def owlv2():
    """Return a small OWLv2 with its processor."""
    model = enlarge_weights(
        Owlv2ForObjectDetection(Owlv2Config(text_config=TEXT, vision_config=VISION, projection_dim=16))
    )
    return model, Owlv2Processor(Owlv2ImageProcessorPil(size=SQUARE), tokenizer(model_max_length=LONGEST))


def grounding_dino():
    """Return a small Grounding DINO with its processor."""
    swin = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=BertConfig(**LAYERS, vocab_size=1100, max_position_embeddings=64),
        num_queries=20, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, d_model=64, max_text_len=32,
    )  # fmt: skip
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48})
    return GroundingDinoForObjectDetection(config), GroundingDinoProcessor(images, bert_tokenizer())


def save(directory: Path, made, seed: int = 0) -> Path:
    """Write the checkpoint of a model of one of the functions above, and return its directory."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = made()
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def image(seed: int = 0, height: int = 20, width: int = 30) -> np.ndarray:
    """Return noise, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
