# SPDX-License-Identifier: MIT
"""Training samples: the residual of the teacher in a deployment, with the bank of the deployment."""

import numpy as np
import pytest

from efn_ros.training.collection import collect
from efn_ros.training.config import CollectionConfig, TrainConfig
from efn_ros.training.dataset import SampleDataset
from efn_ros.worlds.deployment import Deployment

pytestmark = [pytest.mark.simulator]
BOUND = (0.6, 0.6, 0.6, 1.0)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Samples of a nominal deployment and of a shifted one with extra cameras in another view: paths, arrays."""
    directory = tmp_path_factory.mktemp("samples")
    kind = {"bank_rollouts": 2, "sample_rollouts": 2, "bound": BOUND, "noise": 0.0}
    paths = collect(CollectionConfig(1, (("offset", 0.0),), other_cameras=0, extra_cameras=0, **kind), directory)
    paths += collect(CollectionConfig(2, (("offset", 1.0),), other_cameras=1, extra_cameras=2, **kind), directory)
    assert [path.name for path in paths] == ["1.npz", "2.npz", "2_extra_cameras.npz", "2_view1.npz"]
    return paths, [dict(np.load(path)) for path in paths]


def test_targets_are_zero_in_the_nominal_deployment(collected):
    _, (nominal, *_) = collected
    assert np.abs(nominal["target"]).max() < 1e-5


def test_the_target_removes_an_offset(collected):
    """Where neither command nor residual reaches its bound, the target is minus the offset."""
    _, (_, shifted, *_) = collected
    offset = np.array(Deployment.draw(2, {"offset": 1.0}).offset)
    wanted = shifted["base"][..., :3] + shifted["target"][..., :3]
    free = (np.abs(wanted) < 0.999).all(axis=-1)
    assert free.sum() > 10
    np.testing.assert_allclose(shifted["target"][free][:, :3], np.broadcast_to(-offset, (free.sum(), 3)), atol=1e-5)


def test_other_cameras_observe_the_same_motion_and_have_the_same_reference_action(collected):
    _, (_, shifted, _, view) = collected
    for name in ("proprio", "bank_proprio", "bank_executed", "bank_success"):
        np.testing.assert_array_equal(shifted[name], view[name])
    np.testing.assert_array_equal(view["bank_base"], view["bank_executed"])
    assert (shifted["base"] != view["base"]).any() and (shifted["sketch"] != view["sketch"]).any()
    bound = np.array(BOUND, np.float32)
    free = ((np.abs(shifted["target"]) < bound) & (np.abs(view["target"]) < bound)).all(axis=-1)
    reference = [arrays["base"] + arrays["target"] for arrays in (shifted, view)]
    np.testing.assert_allclose(reference[0][free], reference[1][free], atol=1e-5)
    np.testing.assert_array_equal(shifted["deployment"][:, :5], view["deployment"][:, :5])
    assert (shifted["deployment"][:, 5:] == 0).all() and (view["deployment"][:, 5:] != 0).any()
    assert (view["deployment"] == view["deployment"][0]).all()


def test_an_extra_camera_observes_each_sample_and_recalls_from_the_bank_of_the_deployment(collected):
    _, (_, shifted, extra, _) = collected
    assert len(extra["base"]) == 2 * len(shifted["base"])
    for name in (name for name in shifted if name.startswith("bank_")):
        np.testing.assert_array_equal(extra[name], shifted[name])
    np.testing.assert_array_equal(extra["proprio"], shifted["proprio"].repeat(2, axis=0))
    assert len(np.unique(extra["deployment"], axis=0)) > len(shifted["base"])
    np.testing.assert_array_equal(extra["deployment"][:, :5], shifted["deployment"].repeat(2, axis=0)[:, :5])


def test_a_target_is_within_its_bounds(collected):
    for arrays in collected[1]:
        assert (np.abs(arrays["target"]) <= np.array(BOUND, np.float32)).all()


def test_a_file_holds_the_bank_and_the_samples(collected):
    for arrays in collected[1]:
        banked, sampled = len(arrays["bank_base"]), len(arrays["base"])
        assert arrays["similarity"].shape == (sampled, banked)
        assert ((arrays["similarity"] >= 0) & (arrays["similarity"] <= 1)).all()
        assert set(arrays["bank_rollout"]) == {0.0, 1.0}
        assert arrays["bank_latent"].shape == (banked, arrays["latent"].shape[-1])
        # A step's successor is the step after it, within the same rollout.
        same = np.diff(arrays["bank_rollout"]) == 0
        later = arrays["bank_proprio_next"][:-1][same] == arrays["bank_proprio"][1:][same]
        assert later.all(axis=-1).mean() > 0.9  # a blank step between two is left out
        follows = np.flatnonzero(same)[later.all(axis=-1)] + 1
        for name in ("executed", "proprio"):
            np.testing.assert_array_equal(arrays[f"bank_{name}_before"][follows], arrays[f"bank_{name}"][follows - 1])


def test_a_batch_recalls_the_most_similar_and_random_steps_of_a_limited_number_of_rollouts(collected):
    paths, parts = collected
    config = TrainConfig("", collection=CollectionConfig(0, nearest_steps=3, random_steps=2))
    samples = SampleDataset(paths, config)
    assert len(samples) == sum(len(arrays["base"]) for arrays in parts)
    rng = np.random.default_rng(0)
    row = len(parts[0]["base"]) + 4  # the fifth of the second
    for volume in (1, 2):
        batch = samples.batch(np.array([row]), rng, bank_size=volume)
        recalled = batch.recalled
        np.testing.assert_array_equal(batch.target[0], parts[1]["target"][4])
        np.testing.assert_array_equal(batch.deployment[0], parts[1]["deployment"][4])
        np.testing.assert_array_equal(batch.present.latent[0], parts[1]["latent"][4])
        assert recalled.mask.all() and recalled.base.shape[1] == 5
        similarity = np.sort(parts[1]["similarity"][4])[::-1]
        if volume == 2:
            np.testing.assert_array_equal(recalled.similarity[0, :3], similarity[:3])
        used = {
            int(np.flatnonzero((parts[1]["bank_base"] == base.numpy()).all(axis=(1, 2)))[0])
            for base in recalled.base[0]
        }
        assert len({parts[1]["bank_rollout"][i] for i in used}) <= volume
