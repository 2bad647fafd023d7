"""Looks of remembered steps: made once for each, of the images in the bank's payloads, and never of damaged ones."""

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
from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor
from efn_ros.experiments.image_reranking.shortlist import RememberedStep
from efn_ros.experiments.image_reranking.store import ENTRY_BYTES, ImageFeatureStore
from efn_ros.types import Observation

INSTRUCTION, OTHER = "pick up the red cup", "open the drawer"
EVERY = [("a", 0), ("b", 2), ("a", 1), ("b", 0)]
DZ = 8


class Counting(ImageFeatureExtractor):
    """Notes what it is asked for."""

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
    return Counting("left", opening=0, opening_range=(-3, 3), **networks)


@pytest.fixture
def bank(tmp_path):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name in "ab":
            writer.append(make_rollout(name, 3, image=24))
    return tmp_path


def remembered(bank, which, **options):
    """Steps by name of rollout and row, as recall has them at hand."""
    rollouts = {rollout.record.id: rollout for rollout in BankReader(bank, **options).snapshot().rollouts}
    loaded = {name: rollout.cache.load([rollout])[0] for name, rollout in rollouts.items()}
    return [RememberedStep(rollouts[name], loaded[name][1], row, loaded[name][0].proprio[row]) for name, row in which]


def spoil(bank, rollout_id, tensor):
    """Flip one bit in the middle of a tensor of a payload; before the bank's files are opened."""
    (path,) = (r.path for r in BankReader(bank).snapshot().rollouts if r.record.id == rollout_id)
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8 : 8 + size])[tensor]["data_offsets"]
    content[8 + size + (start + end) // 2] ^= 1
    path.write_bytes(content)


def test_remembered_looks_are_those_of_the_remembered_images(bank, extractor, networks):
    looks = ImageFeatureStore(extractor)(remembered(bank, EVERY), INSTRUCTION)
    assert looks.z.shape == (4, DZ) and looks.relation.shape == (4, 4) and looks.text.shape == (0,)
    rollouts = {name: make_rollout(name, 3, image=24) for name in "ab"}
    for (name, row), z, relation in zip(EVERY, looks.z, looks.relation, strict=True):
        step = rollouts[name].steps[row]
        seen = BankReader(bank).image(name, row, "left")
        context = dataclasses.replace(step.observation.context, instruction=INSTRUCTION)
        expected = ImageFeatureExtractor("left", opening=0, opening_range=(-3, 3), **networks)(
            Observation(context, {"left": seen}, step.policy_step.proprio)
        )
        np.testing.assert_allclose(z, expected.z, atol=1e-5)
        np.testing.assert_allclose(relation, expected.relation, atol=1e-5)


def test_all_that_is_missing_is_encoded_in_one_forward_pass_and_once(bank, extractor):
    store = ImageFeatureStore(extractor)
    first = store(remembered(bank, EVERY), INSTRUCTION)
    again = store(remembered(bank, EVERY), INSTRUCTION)
    store(remembered(bank, [*EVERY, ("a", 2), ("b", 1)]), INSTRUCTION)
    assert extractor.batches == [4, 2] and len(extractor.targets) == 6
    np.testing.assert_array_equal(first.z, again.z)
    np.testing.assert_array_equal(first.relation, again.relation)


def test_a_step_that_is_recalled_twice_is_encoded_once(bank, extractor):
    looks = ImageFeatureStore(extractor)(remembered(bank, [("a", 1)] * 3), INSTRUCTION)
    assert extractor.batches == [1] and len(extractor.targets) == 1
    np.testing.assert_array_equal(looks.z, looks.z[:1].repeat(3, axis=0))


def test_another_instruction_looks_for_another_thing_in_the_same_image_features(bank, extractor):
    store = ImageFeatureStore(extractor)
    first, second = (store(remembered(bank, EVERY), instruction) for instruction in (INSTRUCTION, OTHER))
    assert extractor.batches == [4] and extractor.targets == ["red cup"] * 4 + ["drawer"] * 4
    np.testing.assert_array_equal(first.z, second.z)
    assert not np.array_equal(first.relation, second.relation)
    store(remembered(bank, EVERY), f"{INSTRUCTION} and place it on the plate")
    assert len(extractor.targets) == 8


def test_what_was_used_longest_ago_is_dropped_first(bank, extractor):
    pair = 4 * (DZ + 4) + 2 * ENTRY_BYTES  # image and relation features of a step
    store = ImageFeatureStore(extractor, limit_bytes=2 * pair)
    for name, row in (("a", 0), ("a", 1), ("a", 0), ("a", 2), ("a", 0), ("a", 1)):
        store(remembered(bank, [(name, row)]), INSTRUCTION)
    assert extractor.batches == [1, 1, 1, 1]  # row 1 had to make room for row 2


def test_more_steps_than_are_kept_still_have_their_looks(bank, extractor):
    looks = ImageFeatureStore(extractor, limit_bytes=0)(remembered(bank, EVERY), INSTRUCTION)
    np.testing.assert_array_equal(looks.z, ImageFeatureStore(extractor)(remembered(bank, EVERY), INSTRUCTION).z)


def test_a_detector_alone_tells_relations_and_an_encoder_alone_features(bank, networks):
    for kept, dz in (("encoder", DZ), ("detector", 0)):
        extractor = ImageFeatureExtractor("left", **{kept: networks[kept]})
        looks = ImageFeatureStore(extractor)(remembered(bank, EVERY), INSTRUCTION)
        assert looks.z.shape == (4, dz) and np.isnan(looks.relation[:, :3]).all() == (kept == "encoder")


# What is wrong with a payload


@pytest.mark.parametrize("tensor", ["images.left", "offsets.left"])
def test_a_damaged_image_raises_naming_file_and_rollout_and_its_neighbours_are_kept(bank, extractor, tensor):
    spoil(bank, "b", tensor)
    store = ImageFeatureStore(extractor)
    with pytest.raises(BankCorruptionError, match=rf"rollout 'b': image 2 of camera 'left' .*'{tensor}'.* restore"):
        store(remembered(bank, EVERY), INSTRUCTION)
    assert len(store(remembered(bank, [("a", 0)]), INSTRUCTION).z) == 1


def test_a_damaged_image_is_skipped_from_then_on_where_the_reader_skips(bank, extractor):
    spoil(bank, "b", "images.left")
    steps = remembered(bank, EVERY, skip_corrupt=True)
    with pytest.raises(BankCorruptionError):
        ImageFeatureStore(extractor)(steps, INSTRUCTION)
    assert list(dict(steps[1].rollout.cache.corrupt().values())) == ["b"]


def test_the_images_of_another_camera_may_be_damaged(bank, extractor):
    spoil(bank, "b", "images.right")
    assert len(ImageFeatureStore(extractor)(remembered(bank, EVERY), INSTRUCTION).z) == 4


def test_a_camera_that_the_rollout_has_not_is_no_corruption(bank, networks):
    steps = remembered(bank, EVERY, skip_corrupt=True)
    with pytest.raises(KeyError, match="camera 'head' is not in rollout 'a'"):
        ImageFeatureStore(ImageFeatureExtractor("head", **networks))(steps, INSTRUCTION)
    assert not steps[0].rollout.cache.corrupt()


def test_what_is_forgotten_meanwhile_is_still_looked_at_by_who_has_it_open(bank, extractor):
    steps = remembered(bank, EVERY)
    for step in steps:
        step.rollout.path.unlink(missing_ok=True)
    assert len(ImageFeatureStore(extractor)(steps, INSTRUCTION).z) == 4
    assert not os.listdir(bank / "payloads")
