# SPDX-License-Identifier: MIT
"""The learned change of latent tokens, as a residual of the corrector."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sample_networks import CONFIG, DZ, A, H, L, P, T, experiences, step

from efn_ros.efn.batching import present_of, recalled_of
from efn_ros.experiments.latent_residual.inference import VisualPolicyStep
from efn_ros.experiments.latent_residual.network import LatentEfn, LatentEfnConfig
from efn_ros.experiments.latent_residual.residual import LatentResidual
from efn_ros.policies.registry import load_policy
from efn_ros.types import Recall

POLICY = load_policy(
    "untrained", cameras=("left",), image_size=32, keypoint_tokens=1, width=DZ, heads=2, latent_tokens=L, horizon=H,
    proprio_size=P, action_low=(-1.0,) * A, action_high=(1.0,) * A,
)  # fmt: skip
assert (POLICY.spec.latent, POLICY.spec.tokens[0]) == ((L, DZ), T)
DECODER = {"decode": POLICY.decode, "policy": POLICY.spec.fingerprint}
MEMORY = Recall(experiences(4), selected=0)
CONFIG_OF_LATENT = LatentEfnConfig(**asdict(replace(CONFIG, code_size=0)), latent_bound=(2.0,) * DZ)


def decodable() -> VisualPolicyStep:
    """A step of that policy, with its visual tokens."""
    visual = np.random.default_rng(3).standard_normal(POLICY.spec.tokens, dtype=np.float32)
    return VisualPolicyStep(**vars(step()) | {"visual": visual, "policy": POLICY.spec.fingerprint})


@pytest.fixture
def latent(tmp_path) -> LatentEfn:
    """Its checkpoint is the directory `latent`."""
    torch.manual_seed(2)
    made = LatentEfn(CONFIG_OF_LATENT).eval()
    torch.nn.init.normal_(made.head.weight)
    made.save_pretrained(tmp_path / "latent")
    return made


def test_the_residual_is_the_change_through_the_frozen_decoder(latent, tmp_path):
    present = decodable()
    proposal = LatentResidual(tmp_path / "latent", gain=0.5, **DECODER)(present, MEMORY)
    change = latent.residual(present_of(present), recalled_of(MEMORY.steps, latent.config))[0].detach().numpy()
    expected = POLICY.decode(present.latent + change, present.visual) - POLICY.decode(present.latent, present.visual)
    assert proposal.reason == "" and proposal.residual.dtype == np.float32 and proposal.residual.any()
    np.testing.assert_array_equal(proposal.residual, np.float32(0.5) * expected)


def test_a_change_of_zero_is_a_residual_of_exactly_zero(tmp_path):
    LatentEfn(CONFIG_OF_LATENT).save_pretrained(tmp_path)
    residual, reason, _ = LatentResidual(tmp_path, **DECODER)(decodable(), MEMORY)
    assert not residual.any() and residual.shape == (H, A) and reason == ""


@pytest.mark.parametrize(
    "given, words",
    [
        (step(), "has no visual tokens; run policy and corrector in one process"),
        (replace(decodable(), policy="another"), "policy 'another', but latent tokens are decoded by 'untrained-"),
    ],
    ids=["without visual tokens", "of another policy"],
)
def test_a_step_that_cannot_be_decoded_gives_a_residual_of_zero_and_the_reason(latent, tmp_path, given, words):
    residual, reason, _ = LatentResidual(tmp_path / "latent", **DECODER)(given, MEMORY)
    assert not residual.any() and residual.shape == (H, A)
    assert re.search(words, reason)
