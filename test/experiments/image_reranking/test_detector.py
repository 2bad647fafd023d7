# SPDX-License-Identifier: MIT
"""Detectors from small random checkpoints in the real format: which box each query gets, and where."""

import itertools

import numpy as np
import pytest
import torch
from sample_checkpoints import clip, grounding_dino, image, owlv2, owlvit, save
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector

QUERIES = ["robot gripper", "red cup", "plate"]
IMAGES = [image(seed, 80, 120) for seed in range(3)] + [image(3, 120, 50)]
FAMILIES = [owlvit, owlv2, grounding_dino]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return {made: save(tmp_path_factory.mktemp(made.__name__), made) for made in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda made: made.__name__)
def directory(request, directories):
    return directories[request.param]


@pytest.fixture(scope="module")
def detector(directory):
    return OpenVocabularyDetector.from_pretrained(directory, threshold=0.0)


def boxes_of(detector, queries=QUERIES):
    return [detector.boxes(pixels, queries) for pixels in IMAGES]


def test_boxes_are_inside_the_image_and_have_an_area(detector):
    for pixels, boxes in zip(IMAGES, boxes_of(detector), strict=True):
        height, width = pixels.shape[:2]
        for box in filter(None, boxes):
            assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height
    assert sum(box is not None for boxes in boxes_of(detector) for box in boxes) > len(IMAGES)


def test_no_two_queries_share_a_box(detector):
    for boxes in boxes_of(detector):
        for a, b in itertools.combinations(filter(None, boxes), 2):
            assert a != b


def test_a_threshold_of_one_excludes_every_box(directory):
    assert boxes_of(OpenVocabularyDetector.from_pretrained(directory, threshold=1.0)) == [[None] * 3] * len(IMAGES)


def test_the_same_image_has_the_same_boxes(detector):
    assert boxes_of(detector) == boxes_of(detector)


@pytest.mark.parametrize("made", [owlvit, owlv2])
@torch.inference_mode()
def test_boxes_of_owl_are_the_best_of_each_label_after_its_own_processing(directories, made):
    directory = directories[made]
    model = AutoModelForZeroShotObjectDetection.from_pretrained(directory).eval()
    processor = AutoProcessor.from_pretrained(directory)
    for pixels, boxes in zip(IMAGES, boxes_of(OpenVocabularyDetector.from_pretrained(directory)), strict=True):
        height, width = pixels.shape[:2]
        outputs = model(**processor(images=pixels, text=[QUERIES], return_tensors="pt"))
        (found,) = processor.post_process_grounded_object_detection(
            outputs, threshold=0.1, target_sizes=[(height, width)], text_labels=[QUERIES]
        )
        for query, box in zip(QUERIES, boxes, strict=True):
            of_query = [
                (float(score), np.clip(corners, 0, [width, height, width, height]))
                for score, label, corners in zip(
                    found["scores"], found["text_labels"], found["boxes"].numpy(), strict=True
                )
                if label == query
            ]
            of_query = [(score, corners) for score, corners in of_query if (corners[2:] > corners[:2]).all()]
            if box is None:
                assert not of_query
            else:
                np.testing.assert_allclose(box, max(of_query, key=lambda one: one[0])[1], atol=1e-3)


@pytest.mark.parametrize("made", [owlvit, owlv2])
def test_the_boxes_of_owl_do_not_depend_on_the_order_of_queries(directories, made):
    detector = OpenVocabularyDetector.from_pretrained(directories[made], threshold=0.0)
    for order in itertools.permutations(range(3)):
        for boxes, permuted in zip(boxes_of(detector), boxes_of(detector, [QUERIES[i] for i in order]), strict=True):
            for i, box in zip(order, permuted, strict=True):
                assert box == boxes[i] or np.allclose(box, boxes[i], atol=1e-3)


@torch.inference_mode()
def test_boxes_of_grounding_dino_are_those_with_the_highest_score_of_a_word(directories):
    """Every word of the prompt has a score; here words are assigned to queries by their position."""
    directory, queries = directories[grounding_dino], ["Robot gripper", "red cup", "plate"]
    model = AutoModelForZeroShotObjectDetection.from_pretrained(directory).eval()
    processor = AutoProcessor.from_pretrained(directory)
    prompt = "robot gripper. red cup. plate."
    spans = [(prompt.index(query), prompt.index(query) + len(query)) for query in map(str.lower, queries)]
    tokens = processor.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    of_query = [[i for i, (a, b) in enumerate(tokens) if start <= a < b <= end] for start, end in spans]
    assert [len(words) for words in of_query] == [2, 2, 1]
    for pixels, boxes in zip(IMAGES, boxes_of(OpenVocabularyDetector.from_pretrained(directory), queries), strict=True):
        height, width = pixels.shape[:2]
        outputs = model(**processor(images=pixels, text=prompt, return_tensors="pt"))
        scores = outputs.logits[0].sigmoid().numpy()
        fits = np.stack([scores[:, words].max(axis=1) for words in of_query], axis=1)
        for query, box in enumerate(boxes):
            best = max(np.flatnonzero(fits.argmax(axis=1) == query), key=lambda row: fits[row, query], default=None)
            if box is None:
                assert best is None or fits[best, query] <= 0.1
                continue
            x, y, w, h = outputs.pred_boxes[0, best].numpy() * [width, height, width, height]
            expected = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [width, height, width, height])
            np.testing.assert_allclose(box, expected, atol=1e-3)


def test_the_identity_names_weights_and_threshold(directories):
    def identity(made, threshold):
        return OpenVocabularyDetector.from_pretrained(directories[made], threshold=threshold).identity

    assert identity(owlvit, 0.1) == identity(owlvit, 0.1)
    assert len({identity(owlvit, 0.1), identity(owlvit, 0.2), identity(owlv2, 0.1)}) == 3


# What is refused


def test_a_model_without_detection_is_refused_by_name(tmp_path):
    save(tmp_path, clip)
    with pytest.raises(ValueError, match=f"{tmp_path} holds a model of type 'clip'; name one of owlvit, owlv2, ground"):
        OpenVocabularyDetector.from_pretrained(tmp_path)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(directory, threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        OpenVocabularyDetector.from_pretrained(directory, threshold=threshold)


@pytest.mark.parametrize("query", ["", " ", "red cup.", "cup? plate"])
def test_a_query_with_a_separator_or_without_words_is_refused_by_name(detector, query):
    with pytest.raises(ValueError, match="must name an object, without . or ?"):
        detector.boxes(IMAGES[0], ["plate", query])


def test_an_array_that_is_no_image_is_refused(detector):
    with pytest.raises(ValueError, match="an image is float32"):
        detector.boxes(np.zeros((4, 4, 3), np.float32), QUERIES)
