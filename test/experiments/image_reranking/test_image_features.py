"""Looks: what is taken of an image, an instruction and proprioception, and how two looks compare."""

import subprocess
import sys

import numpy as np
import pytest
from sample_checkpoints import clip, grounding_dino, image, save

from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector
from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder
from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor, ImageFeatures, compare
from efn_ros.experiments.image_reranking.similarity import (
    appearance,
    gate,
    image_similarity,
    relation,
    relation_features,
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


def side_by_side(*looks):
    return ImageFeatures(np.stack([look.z for look in looks]), np.stack([look.relation for look in looks]))


def test_a_look_is_what_encoder_detector_and_telemetry_say_of_one_camera(encoder, detector):
    extractor = ImageFeatureExtractor("wrist", encoder=encoder, detector=detector, opening=1, opening_range=(0, 0.04))
    look, seen = extractor(observe()), observe().images["wrist"]
    np.testing.assert_array_equal(look.z, encoder.images([seen])[0])
    np.testing.assert_array_equal(look.text, encoder.text(INSTRUCTION))
    boxes = detector.boxes(seen, ["robot gripper", TARGET])
    assert None not in boxes
    np.testing.assert_array_equal(look.relation, relation_features(*boxes, seen.shape[:2], 0.25))


def test_the_gripper_is_looked_for_in_the_words_that_are_given(encoder, detector):
    seen = observe().images["front"]
    r = ImageFeatureExtractor("front", detector=detector, gripper="cup")(observe()).relation
    expected = relation_features(*detector.boxes(seen, ["cup", TARGET]), seen.shape[:2])
    np.testing.assert_array_equal(r, expected)


@pytest.mark.parametrize(
    ("value", "opening_range", "opening"),
    [(0.02, (0, 0.04), 0.5), (0.5, (0, 0.04), 1), (-1, (0, 0.04), 0), (0.75, (1, 0), 0.25)],
    ids=["between", "above", "below", "falling"],
)
def test_the_opening_goes_from_shut_to_open_whatever_its_units(encoder, value, opening_range, opening):
    extractor = ImageFeatureExtractor("front", encoder=encoder, opening=2, opening_range=opening_range)
    r = extractor.relation(image(), TARGET, np.array([9, 9, value], np.float32))
    np.testing.assert_allclose(r, [np.nan, np.nan, np.nan, opening], atol=1e-6)


def test_what_an_extractor_has_not_is_absent(encoder, detector):
    seen = ImageFeatureExtractor("front", encoder=encoder)(observe())
    assert np.isnan(seen.relation).all() and seen.z.any() and seen.text.any()
    found = ImageFeatureExtractor("front", detector=detector)(observe())
    assert found.z.shape == found.text.shape == (0,)
    assert np.isfinite(found.relation[:3]).all() and np.isnan(found.relation[3])


def test_comparing_is_the_equations_one_after_the_other(encoder, detector):
    extractor = ImageFeatureExtractor("front", encoder=encoder, detector=detector, opening=0)
    remembered, present = side_by_side(*(extractor(observe(seed)) for seed in range(4))), extractor(observe(2))
    expected = image_similarity(
        appearance(remembered.z, present.z),
        gate(remembered.z, present.z, present.text),
        relation(remembered.relation, present.relation, 0.5),
        WEIGHTS,
    )
    np.testing.assert_array_equal(compare(remembered, present, WEIGHTS, 0.5), expected)
    assert compare(remembered, present, (1, 0, 1)).argmax() == 2


@pytest.mark.parametrize("networks", ["encoder", "detector"])
def test_looks_compare_by_what_they_have(encoder, detector, networks):
    extractor = ImageFeatureExtractor("front", **{networks: {"encoder": encoder, "detector": detector}[networks]})
    remembered, present = side_by_side(extractor(observe(0)), extractor(observe(1))), extractor(observe(1))
    alike = compare(remembered, present, WEIGHTS)
    assert np.isfinite(alike).all() and alike.argmax() == 1


def test_the_identity_names_all_that_looks_depend_on(encoder, detector):
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
def test_an_extractor_that_could_tell_nothing_is_refused(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        ImageFeatureExtractor("front", **({"encoder": encoder} | options if options else {}))


def test_a_camera_that_is_not_observed_is_refused_by_name(encoder):
    with pytest.raises(ValueError, match=r"image of camera 'head' is missing; name one of \['front', 'wrist'\]"):
        ImageFeatureExtractor("head", encoder=encoder)(observe())


def test_networks_are_imported_only_where_one_is_loaded():
    loaded = "bool({'torch', 'transformers'} & sys.modules.keys())"
    program = f"import sys, efn_ros.experiments.image_reranking.store; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
