# SPDX-License-Identifier: MIT
"""Features of stored images: computed once for each, and never of damaged ones."""

import dataclasses
import json
import os

import numpy as np
import pytest
from sample_checkpoints import clip, grounding_dino, save
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankCorruptionError, BankReader, BankWriter
from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector
from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder
from efn_ros.experiments.image_reranking.feature_cache import ENTRY_BYTES, ImageFeatureCache
from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor
from efn_ros.experiments.image_reranking.shortlist import StoredStep
from efn_ros.types import Observation

INSTRUCTION, OTHER = "pick up the red cup", "open the drawer"
EVERY = [("a", 0), ("b", 2), ("a", 1), ("b", 0)]
DZ = 8


class CountingExtractor(ImageFeatureExtractor):
    """Records its calls."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.batches, self.targets = [], []

    def features(self, images):
        self.batches.append(len(images))
        return super().features(images)

    def relation(self, image, target, proprio):
        self.targets.append(target)
        return super().relation(image, target, proprio)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    encoder = ContrastiveEncoder.from_pretrained(save(tmp_path_factory.mktemp("encoder"), clip))
    directory = save(tmp_path_factory.mktemp("detector"), grounding_dino)
    return {"encoder": encoder, "detector": OpenVocabularyDetector.from_pretrained(directory, threshold=0.0)}


@pytest.fixture
def extractor(networks):
    return CountingExtractor("left", opening=0, opening_range=(-3, 3), **networks)


@pytest.fixture
def bank(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name in "ab":
            writer.append(make_rollout(name, 3, image=24))
    return tmp_path


def stored_steps(bank, which, **options):
    """Steps by name of rollout and row, as recall holds them."""
    rollouts = {rollout.record.id: rollout for rollout in BankReader(bank, **options).snapshot().rollouts}
    loaded = {name: rollout.cache.load([rollout])[0] for name, rollout in rollouts.items()}
    return [StoredStep(rollouts[name], loaded[name][1], row, loaded[name][0].proprio[row]) for name, row in which]


def flip_bit(bank, rollout_id, tensor):
    """Flip one bit in the middle of a tensor of a payload, before its file is opened."""
    (path,) = (r.path for r in BankReader(bank).snapshot().rollouts if r.record.id == rollout_id)
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8 : 8 + size])[tensor]["data_offsets"]
    content[8 + size + (start + end) // 2] ^= 1
    path.write_bytes(content)


def test_features_are_those_of_the_stored_images(bank, extractor, networks):
    features = ImageFeatureCache(extractor)(stored_steps(bank, EVERY), INSTRUCTION)
    assert features.z.shape == (4, DZ) and features.relation.shape == (4, 4) and features.text.shape == (0,)
    rollouts = {name: make_rollout(name, 3, image=24) for name in "ab"}
    for (name, row), z, relation in zip(EVERY, features.z, features.relation, strict=True):
        step = rollouts[name].steps[row]
        image = BankReader(bank).image(name, row, "left")
        context = dataclasses.replace(step.observation.context, instruction=INSTRUCTION)
        expected = ImageFeatureExtractor("left", opening=0, opening_range=(-3, 3), **networks)(
            Observation(context, {"left": image}, step.policy_step.proprio)
        )
        np.testing.assert_allclose(z, expected.z, atol=1e-5)
        np.testing.assert_allclose(relation, expected.relation, atol=1e-5)


def test_missing_features_take_one_forward_pass_and_are_computed_once(bank, extractor):
    cache = ImageFeatureCache(extractor)
    first = cache(stored_steps(bank, EVERY), INSTRUCTION)
    again = cache(stored_steps(bank, EVERY), INSTRUCTION)
    cache(stored_steps(bank, [*EVERY, ("a", 2), ("b", 1)]), INSTRUCTION)
    assert extractor.batches == [4, 2] and len(extractor.targets) == 6
    np.testing.assert_array_equal(first.z, again.z)
    np.testing.assert_array_equal(first.relation, again.relation)


def test_a_step_that_is_recalled_twice_is_encoded_once(bank, extractor):
    features = ImageFeatureCache(extractor)(stored_steps(bank, [("a", 1)] * 3), INSTRUCTION)
    assert extractor.batches == [1] and len(extractor.targets) == 1
    np.testing.assert_array_equal(features.z, features.z[:1].repeat(3, axis=0))


def test_another_instruction_has_another_target_and_the_same_image_features(bank, extractor):
    cache = ImageFeatureCache(extractor)
    first, second = (cache(stored_steps(bank, EVERY), instruction) for instruction in (INSTRUCTION, OTHER))
    assert extractor.batches == [4] and extractor.targets == ["red cup"] * 4 + ["drawer"] * 4
    np.testing.assert_array_equal(first.z, second.z)
    assert not np.array_equal(first.relation, second.relation)
    cache(stored_steps(bank, EVERY), f"{INSTRUCTION} and place it on the plate")
    assert len(extractor.targets) == 8


def test_the_least_recently_used_features_are_dropped_first(bank, extractor):
    pair = 4 * (DZ + 4) + 2 * ENTRY_BYTES  # image and relation features of a step
    cache = ImageFeatureCache(extractor, limit_bytes=2 * pair)
    for name, row in (("a", 0), ("a", 1), ("a", 0), ("a", 2), ("a", 0), ("a", 1)):
        cache(stored_steps(bank, [(name, row)]), INSTRUCTION)
    assert extractor.batches == [1, 1, 1, 1]  # row 2 took the place of row 1


def test_more_steps_than_the_cache_holds_still_have_features(bank, extractor):
    features = ImageFeatureCache(extractor, limit_bytes=0)(stored_steps(bank, EVERY), INSTRUCTION)
    np.testing.assert_array_equal(features.z, ImageFeatureCache(extractor)(stored_steps(bank, EVERY), INSTRUCTION).z)


def test_a_detector_alone_gives_relations_and_an_encoder_alone_image_features(bank, networks):
    for network, dz in (("encoder", DZ), ("detector", 0)):
        extractor = ImageFeatureExtractor("left", **{network: networks[network]})
        features = ImageFeatureCache(extractor)(stored_steps(bank, EVERY), INSTRUCTION)
        assert features.z.shape == (4, dz) and np.isnan(features.relation[:, :3]).all() == (network == "encoder")


# Damaged payloads


@pytest.mark.parametrize("tensor", ["images.left", "offsets.left"])
def test_a_damaged_image_raises_with_its_rollout_and_others_stay_readable(bank, extractor, tensor):
    flip_bit(bank, "b", tensor)
    cache = ImageFeatureCache(extractor)
    with pytest.raises(BankCorruptionError, match=rf"rollout 'b': image 2 of camera 'left' .*'{tensor}'.* restore"):
        cache(stored_steps(bank, EVERY), INSTRUCTION)
    assert len(cache(stored_steps(bank, [("a", 0)]), INSTRUCTION).z) == 1


def test_a_damaged_image_is_skipped_from_then_on_if_the_reader_skips(bank, extractor):
    flip_bit(bank, "b", "images.left")
    steps = stored_steps(bank, EVERY, skip_corrupt=True)
    with pytest.raises(BankCorruptionError):
        ImageFeatureCache(extractor)(steps, INSTRUCTION)
    assert list(dict(steps[1].rollout.cache.corrupt().values())) == ["b"]


def test_damaged_images_of_another_camera_do_not_matter(bank, extractor):
    flip_bit(bank, "b", "images.right")
    assert len(ImageFeatureCache(extractor)(stored_steps(bank, EVERY), INSTRUCTION).z) == 4


def test_a_missing_camera_is_no_corruption(bank, networks):
    steps = stored_steps(bank, EVERY, skip_corrupt=True)
    with pytest.raises(KeyError, match="camera 'head' is not in rollout 'a'"):
        ImageFeatureCache(ImageFeatureExtractor("head", **networks))(steps, INSTRUCTION)
    assert not steps[0].rollout.cache.corrupt()


def test_images_of_removed_rollouts_stay_readable_while_their_payloads_are_open(bank, extractor):
    steps = stored_steps(bank, EVERY)
    for step in steps:
        step.rollout.path.unlink(missing_ok=True)
    assert len(ImageFeatureCache(extractor)(steps, INSTRUCTION).z) == 4
    assert not os.listdir(bank / "payloads")
