# SPDX-License-Identifier: MIT
"""The learned residual as the corrector calls it."""

from dataclasses import replace

import numpy as np
import pytest
from sample_networks import CONFIG, DZ, KEY, A, H, P, experiences, random_efn, step, trusting_efn

from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import present_of, recalled_of, recent_of
from efn_ros.types import PastDecision, Recall


@pytest.fixture
def efn() -> Efn:
    return random_efn()


@pytest.fixture
def learned(efn, tmp_path) -> LearnedResidual:
    efn.save_pretrained(tmp_path)
    return LearnedResidual(tmp_path)


def test_the_corrector_gets_the_residual_of_the_network(efn, learned):
    memory = experiences(4)
    residual, reason, _ = learned(step(), Recall(memory, selected=0, codes=efn.codes.identity))
    expected = efn.residual(present_of(step()), recalled_of(memory, CONFIG))[0]
    assert reason == "" and residual.dtype == np.float32
    np.testing.assert_allclose(residual, expected.detach().numpy(), rtol=0, atol=0)


def test_codes_of_another_network_are_not_read(efn, learned):
    proposal = learned(step(), Recall(experiences(4), selected=0, codes="of another"))
    assert not proposal.residual.any() and proposal.reason.startswith(
        "the recalled image codes are not those of the EFN"
    )


def test_the_residual_is_scaled_by_trust(efn, tmp_path):
    trusting = trusting_efn(efn)
    efn.save_pretrained(tmp_path / "blind")
    trusting.save_pretrained(tmp_path / "trusting")
    memory, past = (
        Recall(experiences(4), selected=0, codes=efn.codes.identity),
        [PastDecision(np.zeros(P, np.float32), np.ones((H, A), np.float32))],
    )
    whole, part = (LearnedResidual(tmp_path / name)(step(), memory, past) for name in ("blind", "trusting"))
    recent = recent_of(past, step().proprio, trusting.config)
    trust = trusting.estimate_trust(present_of(step()), recalled_of(memory.steps, CONFIG), recent)[0].item()
    assert whole.trust == 1.0 and part.trust == trust and 0 < trust < 1
    np.testing.assert_allclose(part.residual, trust * whole.residual, rtol=1e-6)
    unchecked = LearnedResidual(tmp_path / "trusting", check_memory=False)(step(), memory, past)
    assert unchecked.trust == 1.0
    np.testing.assert_array_equal(unchecked.residual, whole.residual)


def test_where_nothing_was_recalled_the_reason_is_given(learned):
    residual, reason, _ = learned(step(), Recall(reason="the bank is empty"))
    assert not residual.any() and residual.shape == (H, A) and reason == "the bank is empty"


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"base": np.zeros((H, A + 1), np.float32)},
            r"base action of the step has shape \(3, 3\); the EFN takes \(3, 2\)",
        ),
        ({"latent": np.zeros((1, DZ), np.float32)}, "latent of the step"),
        ({"sketch": KEY}, "sketch of the step"),
        ({"proprio": np.zeros(P - 1, np.float32)}, "proprioception of the step"),
    ],
)
def test_a_step_of_another_size_is_named(learned, change, words):
    with pytest.raises(ValueError, match=words):
        learned(replace(step(), **change), Recall(experiences(2), selected=0))
