# SPDX-License-Identifier: MIT
"""Images rank a shortlist again under the instruction, and change no other recall."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_checkpoints import clip, owlvit, save
from sample_rollouts import PROJECTION, make_rollout, make_step

from efn_ros.bank import BankReader, BankWriter
from efn_ros.experiments.image_reranking import OPTIONS, make_retriever
from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector
from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder
from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor
from efn_ros.experiments.image_reranking.reranker import ADDITIVE, GATED, RerankConfig, Reranker
from efn_ros.experiments.image_reranking.retriever import ImageRerankingRetriever
from efn_ros.resources import config_directory
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.retrieval.similarity import CueWeights
from efn_ros.runtime.graph import Graph
from efn_ros.types import Observation

CUES = {"weights": CueWeights(visual=0.5, latent=0.3, proprio=0.2)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name), make) for name, make in (("clip", clip), ("owlvit", owlvit))}


@pytest.fixture(scope="module")
def extractor(checkpoints):
    encoder = ContrastiveEncoder.from_pretrained(checkpoints["clip"])
    detector = OpenVocabularyDetector.from_pretrained(checkpoints["owlvit"], threshold=0.0)
    return ImageFeatureExtractor("left", encoder=encoder, detector=detector)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    bank = tmp_path_factory.mktemp("bank")
    with BankWriter(bank, projection=PROJECTION) as writer:
        for name in "abcd":
            writer.append(make_rollout(name, 5, image=24))
    return BankReader(bank)


def present(seed=0):
    """The observation and the policy step of a decision."""
    step = make_step("now", seed, rng=np.random.default_rng([9, seed]), image=24)
    return step.observation, step.policy_step


def by_step(recall):
    return {(s.rollout_id, s.step): (s.similarity, s.score) for s in recall.steps}


def cosine(a, b):
    return float(a.astype(float) @ b.astype(float) / np.linalg.norm(a.astype(float)) / np.linalg.norm(b.astype(float)))


@pytest.mark.parametrize("fusion", [ADDITIVE, GATED])
def test_the_shortlist_is_ranked_by_the_equations_and_no_other_step_is_recalled(reader, extractor, fusion):
    observation, query = present()
    plain = Retriever(reader, RetrievalConfig(k=20, **CUES)).recall(query)
    config = RerankConfig(shortlist=6, fusion=fusion, weight=0.7, gate=0.4, phase=0.2)
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=6, **CUES), Reranker(extractor, config))
    retriever.observe(observation)
    recall = retriever.recall(query)
    coarse = by_step(plain)
    best = sorted(coarse, key=lambda key: -coarse[key][1])[:6]
    assert set(by_step(recall)) == set(best) and retriever.without_image == 0

    now = extractor(observation)
    for key, (similarity, score) in by_step(recall).items():
        rollout = next(r for r in reader.snapshot().rollouts if r.record.id == key[0])
        image, arrays = reader.image(key[0], key[1], "left"), rollout.arrays
        z, r = extractor.features([image])[0], extractor.relation(image, "goal", arrays.proprio[key[1]])
        kernel = (r - now.relation)[~np.isnan(r - now.relation)] * 3
        terms = [(1 + cosine(z, now.z)) / 2, min((1 + cosine(v, now.text)) / 2 for v in (z, now.z))]
        weights = [0.4, 0.3]
        if len(kernel):
            terms, weights = [*terms, np.exp(-(kernel**2).sum() / 2)], [*weights, 0.3]
        of_image = np.dot(weights, terms) / sum(weights)
        without = coarse[key][0]
        if fusion == ADDITIVE:
            expected = (without + 0.7 * of_image) / 1.7
        else:
            embed = (1 + cosine(arrays.key.q[key[1]], query.key.q)) / 2
            phase = (without - 0.5 * embed) / 0.5
            expected = min((0.4 + 0.6 * of_image) * embed + 0.2 * phase, 1)
        assert similarity == pytest.approx(expected, abs=1e-5)
        assert score - coarse[key][1] == pytest.approx(0.9 * (similarity - without), abs=1e-5)


def test_without_the_image_the_coarse_ranking_is_used_and_counted(reader, extractor):
    observation, query = present()
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=6), Reranker(extractor))
    other = dataclasses.replace(observation, context=dataclasses.replace(observation.context, step=99))
    retriever.observe(other)
    assert by_step(retriever.recall(query)) == by_step(Retriever(reader, RetrievalConfig(k=6)).recall(query))
    assert retriever.without_image == 1


def test_a_stored_image_that_is_observed_again_is_most_similar_to_itself(reader, extractor):
    rollout = reader.snapshot().rollouts[2]
    step = make_rollout("c", 5, image=24).steps[3]
    reranker = Reranker(extractor, RerankConfig(shortlist=20))
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=1, argmax=True), reranker)
    images = {"left": reader.image("c", 3, "left")}
    context = dataclasses.replace(step.observation.context, episode_id="again")
    retriever.observe(Observation(context, images, step.observation.proprio))
    (found,) = retriever.recall(dataclasses.replace(step.policy_step, context=context)).steps
    assert (found.rollout_id, found.step) == (rollout.record.id, 3)
    assert found.similarity == pytest.approx(1, abs=1e-5)


def test_the_ranking_of_a_decision_is_repeatable(reader, extractor):
    observation, query = present(1)

    def recalled():
        retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=4), Reranker(extractor))
        retriever.observe(observation)
        return retriever.recall(query)

    first, second = recalled(), recalled()
    assert by_step(first) == by_step(second) and first.selected == second.selected


def test_the_next_step_of_the_reference_stays_in_the_shortlist(reader, extractor):
    """It may be recalled, however it ranks."""
    rerank = Reranker(extractor, RerankConfig(shortlist=2))
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=2, reference_margin=1.0), rerank)
    places = []
    for step in range(4):
        made = make_step("now", step, rng=np.random.default_rng([9, step]), image=24)
        retriever.observe(made.observation)
        recall = retriever.recall(made.policy_step)
        places.append((recall.steps[recall.selected].rollout_id, recall.steps[recall.selected].step))
    assert any(after == (name, step + 1) for (name, step), after in zip(places[:-1], places[1:], strict=True))


def test_random_steps_have_their_coarse_score(reader, extractor):
    observation, query = present()
    plain = by_step(Retriever(reader, RetrievalConfig(k=20, **CUES)).recall(query))
    rerank = Reranker(extractor, RerankConfig(shortlist=2))
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=2, random_steps=18, **CUES), rerank)
    retriever.observe(observation)
    recall = retriever.recall(query)
    assert np.isfinite(recall.steps.score).all()
    for s in list(recall.steps)[2:]:
        if (s.rollout_id, s.step) not in [(t.rollout_id, t.step) for t in list(recall.steps)[:2]]:
            assert (s.similarity, s.score) == plain[s.rollout_id, s.step]


def test_a_decision_that_is_not_corrected_is_not_observed(reader, extractor):
    observation, query = present()
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=2), Reranker(extractor))
    retriever.observe(dataclasses.replace(observation, context=dataclasses.replace(observation.context, correct=False)))
    retriever.recall(query)
    assert retriever.without_image == 1


def test_a_bank_without_the_camera_is_refused_by_name(tmp_path, extractor):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        writer.append(make_rollout("a", 2, image=24, cameras=("top",)))
    observation, query = present()
    retriever = ImageRerankingRetriever(BankReader(tmp_path), RetrievalConfig(k=2), Reranker(extractor))
    retriever.observe(observation)
    with pytest.raises(ValueError, match="camera 'left' is not in rollout 'a'; name a camera that all rollouts have"):
        retriever.recall(query)


def test_a_damaged_image_is_left_out_with_its_rollout(tmp_path, extractor):
    with BankWriter(tmp_path, projection=PROJECTION) as writer:
        for name in "ab":
            writer.append(make_rollout(name, 3, image=24))
    reader = BankReader(tmp_path, skip_corrupt=True)
    path = reader.snapshot().rollouts[0].path
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xd8\xff")  # where a JPEG begins
    content[at + 40] ^= 1
    path.write_bytes(content)
    observation, query = present()
    retriever = ImageRerankingRetriever(reader, RetrievalConfig(k=3), Reranker(extractor))
    retriever.observe(observation)
    recall = retriever.recall(query)
    assert set(recall.steps.rollout_id) == {"b"} and list(reader.corrupt) == ["a"]


@given(st.integers(0, 30))
def test_only_the_last_observations_are_held(count):
    reranker = Reranker(ImageFeatureExtractor("left", encoder=ZeroEncoder()))
    for step in range(count):
        observation, _ = present()
        reranker.observe(dataclasses.replace(observation, context=dataclasses.replace(observation.context, step=step)))
    assert len(reranker._present) == min(count, 8)


class ZeroEncoder:
    """A fast encoder, whose features are zero."""

    identity = "zero"

    def images(self, images):
        return np.zeros((len(images), 2), np.float32)

    def text(self, instruction):
        return np.zeros(2, np.float32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shortlist": 0}, "shortlist of the reranker is 0"),
        ({"fusion": "both"}, "fusion of the reranker is 'both'"),
        ({"weight": 0.0}, "weight of the reranker is 0.0"),
        ({"gate": 1.5}, "gate of the reranker is 1.5"),
        ({"phase": -1.0}, "phase of the reranker is -1.0"),
        ({"text": -0.1}, "none may be negative"),
        ({"appearance": 0.0, "text": 0.0, "relation": 0.0}, "nor all 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RerankConfig(**change)


def test_more_recalled_steps_than_the_shortlist_holds_are_refused(reader, extractor):
    with pytest.raises(ValueError, match="k is 33; it must be at most the shortlist of the reranker, 32"):
        ImageRerankingRetriever(reader, RetrievalConfig(k=33), Reranker(extractor))


def test_the_retriever_is_built_from_parameters(reader, checkpoints):
    values = {
        "encoder": str(checkpoints["clip"]), "detector": str(checkpoints["owlvit"]), "device": "cpu", "camera": "left",
        "shortlist": 9, "appearance": 0.5, "text": 0.25, "relation": 0.25, "fusion": GATED, "weight": 0.3, "gate": 0.6,
        "phase": 0.2, "threshold": 0.4, "gripper": "plate", "opening": 2, "opening_range": [0.0, 2.0],
    }  # fmt: skip
    graph = Graph.load(str(config_directory() / "experiments" / "image_reranking.yaml")).parameters(
        "experience_retrieval"
    )
    parameters = {**graph, **{f"{OPTIONS}{name}": value for name, value in values.items()}}
    made = make_retriever(parameters, reader)._reranker
    assert (made.config.shortlist, made.config.fusion, made.config.terms) == (9, GATED, (0.5, 0.25, 0.25))
    assert (made.config.weight, made.config.gate, made.config.phase) == (0.3, 0.6, 0.2)
    identity = made._extractor.identity
    assert identity.startswith("left:clip-") and identity.endswith("-0.4:plate:2:(0.0, 2.0)")
    alone = parameters | {f"{OPTIONS}detector": "", f"{OPTIONS}opening": -1}
    assert make_retriever(alone, reader)._reranker._extractor.detector is None
    with pytest.raises(ValueError, match="encoder"):
        make_retriever(graph, reader)
