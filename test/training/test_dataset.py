# SPDX-License-Identifier: MIT
"""Batches of samples: their recalled steps and their codes."""

import numpy as np
import pytest
import torch
from sample_deployments import BOUND, DZ, A, D, H, L, P, T, config, deployment

from efn_ros.efn.actor import Efn
from efn_ros.efn.config import EfnConfig
from efn_ros.features.codes import principal_components
from efn_ros.training.config import CollectionConfig
from efn_ros.training.dataset import SampleDataset


def test_recent_decisions_are_not_recalled(tmp_path):
    samples = SampleDataset([deployment(tmp_path / "0.npz", 0)], config(tmp_path))
    batch = samples.batch(np.arange(20), np.random.default_rng(0), bank_size=8, recent_steps=5)
    recalled, recent = batch.recalled, batch.recent
    part = samples.parts[0]

    def rollouts(executed):
        return {part["bank_rollout"][(part["bank_executed"] == e).all(axis=(1, 2))][0] for e in executed.numpy()}

    assert recent.mask.any() and not recent.mask.all()
    for row in range(20):
        shown = rollouts(recent.executed[row][recent.mask[row]])
        assert len(shown) <= 1 and not shown & rollouts(recalled.executed[row][recalled.mask[row]])


def test_codes_are_whitened_principal_components_and_zero_for_other_cameras(tmp_path):
    paths = [deployment(tmp_path / name, 0, samples=200) for name in ("0.npz", "0_extra_cameras.npz")]
    settings = config(tmp_path)
    samples = SampleDataset(paths, settings)
    mean, basis = principal_components(samples.sketches(np.random.default_rng(0)), 3)
    sketches = samples.samples["sketch"].reshape(len(samples), -1).astype(np.float64)
    codes = (sketches - mean) @ basis
    np.testing.assert_allclose(codes.T @ codes / len(codes), np.eye(3), atol=0.02)
    deviations = np.linalg.svd(sketches - sketches.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(1 / np.linalg.norm(basis, axis=0), deviations[:3] / len(codes) ** 0.5, rtol=1e-3)

    torch.manual_seed(0)
    ones = (1.0,) * P
    efn = Efn(EfnConfig(H, A, (L, DZ), (T, D), BOUND, ones, ones, ones, code_size=3))
    torch.nn.init.normal_(efn.code_basis)
    samples.encode(efn)
    expected = np.load(paths[0])["bank_sketch"].reshape(-1, T * D) @ efn.code_basis.numpy()
    np.testing.assert_allclose(samples.parts[0]["bank_code"], expected, rtol=1e-4, atol=1e-4)
    assert not samples.parts[1]["bank_code"].any()


@pytest.mark.parametrize("volume", [1, 3, 8])
def test_a_bank_holds_no_more_rollouts_than_its_volume(tmp_path, volume):
    samples = SampleDataset(
        [deployment(tmp_path / "0.npz", 0)],
        config(tmp_path, collection=CollectionConfig(0, nearest_steps=30, random_steps=30)),
    )
    recalled = samples.batch(np.arange(5), np.random.default_rng(0), bank_size=volume).recalled
    part = samples.parts[0]
    for row in range(5):
        present = recalled.mask[row].numpy()
        executed = recalled.executed[row][present].numpy()
        rollouts = {part["bank_rollout"][(part["bank_executed"] == e).all(axis=(1, 2))][0] for e in executed}
        assert len(rollouts) <= volume
