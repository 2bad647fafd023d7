# SPDX-License-Identifier: MIT
"""Supervised training of a change of latent tokens, through the decoder of a frozen policy."""

import json

import numpy as np
import pytest
import torch
from sample_deployments import A, H, config, deployment

from efn_ros.experiments.latent_residual import training
from efn_ros.experiments.latent_residual.network import LatentEfn
from efn_ros.experiments.latent_residual.training import (
    LatentCollector,
    LatentDataset,
    LatentTraining,
    frozen_decoder,
)
from efn_ros.policies.registry import load_policy
from efn_ros.training.collection import collect
from efn_ros.training.config import CollectionConfig, TrainConfig
from efn_ros.training.supervised import residual_loss

POLICY = load_policy(
    "untrained", cameras=("left",), image_size=32, keypoint_tokens=2, width=16, heads=2, latent_tokens=2, horizon=H,
    action_low=(-1.0,) * A, action_high=(1.0,) * A,
)  # fmt: skip


class Training(LatentTraining):
    latent_share = 3.0


def decodable(path, seed):
    """As `deployment`, but the base is decoded from tokens, and the visual tokens are stored."""
    arrays = dict(np.load(deployment(path, seed)))
    rng = np.random.default_rng(seed)
    count = len(arrays["base"])
    latent, visual = (rng.normal(size=(count, *size)) for size in (POLICY.spec.latent, POLICY.spec.tokens))
    arrays |= {"latent": latent.astype(np.float32), "visual": visual.astype(np.float16)}
    decoded = zip(arrays["latent"], arrays["visual"].astype(np.float32), strict=True)
    arrays["base"] = np.stack([POLICY.decode(*tokens) for tokens in decoded])
    arrays["bank_latent"] = rng.normal(size=(len(arrays["bank_base"]), POLICY.spec.latent[1])).astype(np.float32)
    np.savez(path, **arrays)
    return path


@pytest.fixture
def settings(tmp_path, monkeypatch) -> TrainConfig:
    """Of a training on samples of forty deployments."""
    for seed in range(40):
        decodable(tmp_path / "samples" / f"{seed}.npz", seed)
    monkeypatch.setattr(training, "make_policy", lambda parameters: POLICY)
    return config(tmp_path)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_change_of_latent_tokens_is_learned_through_a_decoder_that_does_not_change(settings, tmp_path):
    before = weights(POLICY.decoder())
    Training(settings).fit(range(40), 150, tmp_path / "round_0")
    facts = json.loads((tmp_path / "round_0" / "facts.json").read_text())
    losses = facts["validation"]  # on the action
    assert losses["volume_8"] < 0.6 * losses["none"]
    trained = LatentEfn.from_pretrained(tmp_path / "round_0").config
    assert trained.head_shape == POLICY.spec.latent
    np.testing.assert_allclose(trained.latent_bound, 3.0, rtol=0.1)  # of tokens that spread by one
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(POLICY.decoder()).items())


def test_gradients_reach_the_whole_head_and_no_weight_of_the_policy(settings, tmp_path):
    samples = LatentDataset([tmp_path / "samples" / "0.npz"], settings)
    efn = Training(settings).network(samples)
    samples.encode(efn)
    torch.nn.init.normal_(efn.head.weight, std=0.1)
    residual_loss(efn, samples, settings, np.random.default_rng(0))[0].backward()
    means, spreads = efn.head.weight.grad.chunk(2)
    assert (means != 0).any(dim=1).all() and not spreads.any()
    decoder = frozen_decoder(settings.collection)
    assert not any(p.requires_grad or p.grad is not None for p in decoder.parameters())


def test_an_output_of_zero_is_a_residual_of_zero(settings, tmp_path):
    samples, rows = LatentDataset([tmp_path / "samples" / "0.npz"], settings), np.arange(5)
    present = samples.batch(rows, np.random.default_rng(0)).present
    assert not samples.to_residual(torch.zeros_like(present.latent), present, rows).any()


def test_samples_without_visual_tokens_and_a_policy_without_a_decoder_are_refused(settings, tmp_path, monkeypatch):
    plain = deployment(tmp_path / "plain.npz", 0)
    with pytest.raises(ValueError, match="plain.npz holds no visual tokens, which this training needs"):
        LatentDataset([plain], settings)
    monkeypatch.setattr(training, "make_policy", lambda parameters: load_policy("constant"))
    with pytest.raises(ValueError, match="policy 'constant' of 'metaworld_sim' has no decoder; name a graph"):
        Training(settings).fit(range(40), 1, tmp_path / "round_0")


@pytest.mark.simulator
def test_collected_samples_hold_visual_tokens_that_decode_to_the_base(tmp_path):
    kind = CollectionConfig(1, (("offset", 0.0),), 0, 0, bank_rollouts=1, sample_rollouts=1, noise=0.0)
    (path,) = collect(kind, tmp_path, LatentCollector)
    samples = dict(np.load(path))
    latent, visual = (torch.from_numpy(samples[name]).float() for name in ("latent", "visual"))
    assert samples["visual"].dtype == np.float16
    with torch.inference_mode():
        np.testing.assert_allclose(frozen_decoder(kind)(latent, visual), samples["base"], atol=1e-3)
