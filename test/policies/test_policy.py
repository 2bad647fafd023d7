# SPDX-License-Identifier: MIT
"""The names of policies, and the constant one."""

import numpy as np
import pytest

from efn_ros.policies.registry import load_policy
from efn_ros.types import Observation, StepContext


def test_an_unknown_policy_is_named():
    with pytest.raises(
        ValueError, match="policy 'gato' is unknown; choose 'pocket_vla', 'untrained', 'constant',? (or )?'sine'"
    ):
        load_policy("gato")


def test_the_constant_policy_answers_the_same_whatever_it_sees():
    policy = load_policy("constant", action=[0.1, -0.2, 0.3], horizon=5, image_size=8, seed=4)
    outputs = []
    for value, instruction in ((0, "open the drawer"), (255, "close the drawer")):
        images = dict.fromkeys(policy.spec.cameras, np.full((8, 8, 3), value, np.uint8))
        context = StepContext("e0", 0, 0, "task", instruction)
        outputs.append(policy.infer(Observation(context, images, np.zeros(4, np.float32))))
    for name in ("latent", "visual", "action"):
        np.testing.assert_array_equal(getattr(outputs[0], name), getattr(outputs[1], name))
    np.testing.assert_array_equal(outputs[0].action, np.tile(np.float32([0.1, -0.2, 0.3]), (5, 1)))
    np.testing.assert_array_equal(policy.decode(outputs[0].latent + 1, outputs[0].visual), outputs[0].action)
    assert policy.decoder() is None, "there is nothing to learn through"


def test_the_constant_policy_fits_its_spec():
    policy = load_policy("constant", cameras=["head"], proprio_size=14, horizon=30, action=[0.0] * 16, tokens=(10, 24))
    spec = policy.spec
    assert (spec.name, spec.cameras, spec.proprio_size) == ("constant", ("head",), 14)
    output = policy.infer(None)
    assert output.visual.shape == spec.tokens == (10, 24)
    assert output.latent.shape == spec.latent
    assert output.action.shape == (spec.horizon, spec.action_size) == (30, 16)
    embedding = policy.embed_instruction("open the drawer")
    assert embedding.shape == (64,) and np.linalg.norm(embedding) == pytest.approx(1)


def test_constant_policies_differ_by_their_seed():
    first, second = load_policy("constant", seed=0), load_policy("constant", seed=1)
    assert first.spec.fingerprint != second.spec.fingerprint
    assert not np.array_equal(first.infer(None).visual, second.infer(None).visual)
