# SPDX-License-Identifier: MIT
"""Features of an image, an instruction and proprioception, and their comparison."""

import subprocess
import sys

import numpy as np
import pytest
from sample_checkpoints import clip, grounding_dino, image, save

from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector
from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder
from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor, ImageFeatures, compare
from efn_ros.experiments.image_reranking.similarity import (
    appearance_similarity,
    image_similarity,
    instruction_gate,
    relation_features,
    relation_similarity,
)
from efn_ros.types import Observation, StepContext

INSTRUCTION, TARGET = "pick up the red cup and place it on the plate", "red cup"
PROPRIO = np.array([0.3, 0.01, -2], np.float32)
WEIGHTS = (0.4, 0.3, 0.3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return ContrastiveEncoder.from_pretrained(save(tmp_path_factory.mktemp("encoder"), clip))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    directory = save(tmp_path_factory.mktemp("detector"), grounding_dino)
    return OpenVocabularyDetector.from_pretrained(directory, threshold=0.0)


def observe(seed=0, instruction=INSTRUCTION):
    images = {"front": image(seed), "wrist": image(seed + 100)}
    return Observation(StepContext("e0", 0, 0, "task", instruction), images, PROPRIO)


def side_by_side(*images):
    return ImageFeatures(np.stack([image.z for image in images]), np.stack([image.relation for image in images]))


def test_features_are_those_of_encoder_detector_and_telemetry_for_one_camera(encoder, detector):
    extractor = ImageFeatureExtractor("wrist", encoder=encoder, detector=detector, opening=1, opening_range=(0, 0.04))
    features, pixels = extractor(observe()), observe().images["wrist"]
    np.testing.assert_array_equal(features.z, encoder.images([pixels])[0])
    np.testing.assert_array_equal(features.text, encoder.text(INSTRUCTION))
    boxes = detector.boxes(pixels, ["robot gripper", TARGET])
    assert None not in boxes
    np.testing.assert_array_equal(features.relation, relation_features(*boxes, pixels.shape[:2], 0.25))


def test_the_gripper_is_detected_by_the_given_words(encoder, detector):
    pixels = observe().images["front"]
    r = ImageFeatureExtractor("front", detector=detector, gripper="cup")(observe()).relation
    expected = relation_features(*detector.boxes(pixels, ["cup", TARGET]), pixels.shape[:2])
    np.testing.assert_array_equal(r, expected)


@pytest.mark.parametrize(
    ("value", "opening_range", "opening"),
    [(0.02, (0, 0.04), 0.5), (0.5, (0, 0.04), 1), (-1, (0, 0.04), 0), (0.75, (1, 0), 0.25)],
    ids=["between", "above", "below", "falling"],
)
def test_the_opening_is_scaled_from_shut_to_open_in_any_units(encoder, value, opening_range, opening):
    extractor = ImageFeatureExtractor("front", encoder=encoder, opening=2, opening_range=opening_range)
    r = extractor.relation(image(), TARGET, np.array([9, 9, value], np.float32))
    np.testing.assert_allclose(r, [np.nan, np.nan, np.nan, opening], atol=1e-6)


def test_features_of_a_missing_network_are_absent(encoder, detector):
    encoded = ImageFeatureExtractor("front", encoder=encoder)(observe())
    assert np.isnan(encoded.relation).all() and encoded.z.any() and encoded.text.any()
    detected = ImageFeatureExtractor("front", detector=detector)(observe())
    assert detected.z.shape == detected.text.shape == (0,)
    assert np.isfinite(detected.relation[:3]).all() and np.isnan(detected.relation[3])


def test_a_comparison_applies_the_equations_in_turn(encoder, detector):
    extractor = ImageFeatureExtractor("front", encoder=encoder, detector=detector, opening=0)
    stored, present = side_by_side(*(extractor(observe(seed)) for seed in range(4))), extractor(observe(2))
    expected = image_similarity(
        appearance_similarity(stored.z, present.z),
        instruction_gate(stored.z, present.z, present.text),
        relation_similarity(stored.relation, present.relation, 0.5),
        WEIGHTS,
    )
    np.testing.assert_array_equal(compare(stored, present, WEIGHTS, 0.5), expected)
    assert compare(stored, present, (1, 0, 1)).argmax() == 2


@pytest.mark.parametrize("networks", ["encoder", "detector"])
def test_features_of_one_network_alone_can_be_compared(encoder, detector, networks):
    extractor = ImageFeatureExtractor("front", **{networks: {"encoder": encoder, "detector": detector}[networks]})
    stored, present = side_by_side(extractor(observe(0)), extractor(observe(1))), extractor(observe(1))
    similarity = compare(stored, present, WEIGHTS)
    assert np.isfinite(similarity).all() and similarity.argmax() == 1


def test_the_identity_names_all_that_features_depend_on(encoder, detector):
    extractors = [
        ImageFeatureExtractor("front", encoder=encoder, detector=detector),
        ImageFeatureExtractor("wrist", encoder=encoder, detector=detector),
        ImageFeatureExtractor("front", encoder=encoder),
        ImageFeatureExtractor("front", detector=detector),
        ImageFeatureExtractor("front", encoder=encoder, detector=detector, gripper="hand"),
        ImageFeatureExtractor("front", encoder=encoder, detector=detector, opening=0),
        ImageFeatureExtractor("front", encoder=encoder, detector=detector, opening=0, opening_range=(0, 0.04)),
    ]
    assert len({extractor.identity for extractor in extractors}) == len(extractors)
    assert encoder.identity in extractors[0].identity and detector.identity in extractors[0].identity


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "neither encoder nor detector"), ({"opening_range": (1, 1)}, r"opening_range is \(1, 1\)")],
)
def test_an_extractor_without_features_is_refused(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        ImageFeatureExtractor("front", **({"encoder": encoder} | options if options else {}))


def test_a_missing_camera_is_refused_by_name(encoder):
    with pytest.raises(ValueError, match=r"image of camera 'head' is missing; name one of \['front', 'wrist'\]"):
        ImageFeatureExtractor("head", encoder=encoder)(observe())


def test_neural_networks_are_imported_only_where_one_is_loaded():
    loaded = "bool({'torch', 'transformers'} & sys.modules.keys())"
    program = f"import sys, efn_ros.experiments.image_reranking.feature_cache; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
