# SPDX-License-Identifier: MIT
"""Encoders from small random checkpoints in the real format: features are those of the model itself."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_checkpoints import LONGEST, align, bert_tokenizer, clip, grounding_dino, image, save, siglip
from transformers import AutoModel, AutoProcessor, BertConfig, BertModel

from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder

INSTRUCTION = "pick up the red cup"
IMAGES = [image(0), image(1, 40, 25), image(2, 32, 32)]


@pytest.fixture(scope="module", params=[clip, siglip, align], ids=lambda made: made.__name__)
def directory(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp(request.param.__name__), request.param)


@pytest.fixture(scope="module")
def encoder(directory):
    return ContrastiveEncoder.from_pretrained(directory)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint that a test may change."""
    return save(tmp_path, clip)


def unit_of(output):
    features = output.pooler_output.numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@torch.inference_mode()
def test_features_are_those_of_the_model_itself_at_unit_norm(directory, encoder):
    model, processor = AutoModel.from_pretrained(directory).eval(), AutoProcessor.from_pretrained(directory)
    z = encoder.images(IMAGES)
    assert z.dtype == np.float32 and len(z) == len(IMAGES)
    for row, pixels in zip(z, IMAGES, strict=True):
        expected = unit_of(model.get_image_features(**processor(images=pixels, return_tensors="pt")))
        np.testing.assert_allclose(row, expected[0], atol=1e-5)
    inputs = processor(text=[INSTRUCTION], padding="max_length", max_length=LONGEST, return_tensors="pt")
    text = encoder.text(INSTRUCTION)
    np.testing.assert_allclose(text, unit_of(model.get_text_features(**inputs))[0], atol=1e-5)
    assert text.dtype == np.float32 and text.shape == z.shape[1:]


def test_different_images_and_instructions_have_different_features(encoder):
    z = encoder.images(IMAGES)
    assert (np.abs(z[:, None] - z[None]).max(axis=2) + np.eye(len(z)) > 1e-3).all()
    assert np.abs(encoder.text(INSTRUCTION) - encoder.text("open the drawer")).max() > 1e-3


@torch.inference_mode()
def test_texts_are_padded_for_a_model_trained_on_padded_texts(tmp_path):
    directory = save(tmp_path, siglip)
    model, processor = AutoModel.from_pretrained(directory).eval(), AutoProcessor.from_pretrained(directory)
    short = unit_of(model.get_text_features(**processor(text=[INSTRUCTION], return_tensors="pt")))[0]
    assert np.abs(ContrastiveEncoder.from_pretrained(directory).text(INSTRUCTION) - short).max() > 1e-3


def test_an_instruction_too_long_for_the_model_is_truncated(encoder):
    long = " ".join([INSTRUCTION] * LONGEST)
    np.testing.assert_array_equal(encoder.text(long), encoder.text(f"{long} and place it on the plate"))


def test_an_instruction_is_encoded_once(encoder):
    assert encoder.text(INSTRUCTION) is encoder.text(INSTRUCTION)


def test_the_identity_names_the_weights_and_how_images_are_prepared(tmp_path):
    first, again, other, smaller = (tmp_path / name for name in ("first", "again", "other", "smaller"))
    for directory, seed in ((first, 0), (again, 0), (other, 1), (smaller, 0)):
        save(directory, clip, seed)
    config = json.loads((smaller / "processor_config.json").read_text())
    config["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (smaller / "processor_config.json").write_text(json.dumps(config))
    identities = [ContrastiveEncoder.from_pretrained(d).identity for d in (first, again, other, smaller)]
    assert identities[0] == identities[1] and len(set(identities)) == 3
    assert identities[0].startswith("clip-")


def test_weights_of_half_precision_are_loaded_as_single(tmp_path):
    model, processor = clip()
    model.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert ContrastiveEncoder.from_pretrained(tmp_path).images(IMAGES).dtype == np.float32


# What is refused


@pytest.mark.parametrize(
    "invalid", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)], ids=str
)
def test_an_array_that_is_no_image_is_refused(encoder, invalid):
    with pytest.raises(ValueError, match=r"an image is .*; it must be uint8 \(height, width, 3\)"):
        encoder.images([image(), invalid])


def test_a_model_without_a_common_space_is_refused_by_name(tmp_path):
    save(tmp_path, grounding_dino)
    with pytest.raises(ValueError, match=f"{tmp_path} holds a GroundingDinoModel.* name a contrastive model"):
        ContrastiveEncoder.from_pretrained(tmp_path)


def test_a_model_of_texts_alone_is_refused_by_name(tmp_path):
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(BertConfig(**sizes, vocab_size=1100)).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds a BertModel, no model of images and texts"):
        ContrastiveEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/directory"])
def test_a_missing_checkpoint_is_refused_with_the_remedy(name):
    with pytest.raises(OSError, match=f"checkpoint {name} cannot be read; name a directory that holds it, or connect"):
        ContrastiveEncoder.from_pretrained(name)


def test_pickled_weights_are_not_opened(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        ContrastiveEncoder.from_pretrained(checkpoint)


def test_missing_weights_are_not_drawn_at_random(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{checkpoint} lacks 1 weights, visual_projection.weight among them"):
        ContrastiveEncoder.from_pretrained(checkpoint)


def test_code_of_a_checkpoint_is_not_run(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="custom code"):
        ContrastiveEncoder.from_pretrained(checkpoint)
