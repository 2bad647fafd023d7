# SPDX-License-Identifier: MIT
"""Trust: a probability, out of two sets."""

from dataclasses import replace

import numpy as np
import torch
from sample_networks import CONFIG, A, H, P, each, present, random_efn, recalled, trusting_efn

from efn_ros.efn.batching import recent_of
from efn_ros.types import PastDecision


def test_trust_is_a_probability_and_what_it_reads_are_sets():
    trusting = trusting_efn(random_efn())
    now, memory, order = present(), recalled(), torch.randperm(6)
    past = [PastDecision(np.ones(P) * i, np.ones((H, A)) * i) for i in range(2)]
    recent = recent_of(past, np.ones(P), trusting.config)
    recent = each(recent, lambda x: x.expand(5, *x.shape[1:]).clone())
    trust, estimates = trusting.estimate_trust(now, memory, recent)
    assert trust.shape == (5,) and ((trust >= 0) & (trust <= 1)).all()
    assert [t.shape for t in estimates] == [(5, CONFIG.deployment_size)] * 4
    turned = trusting.estimate_trust(now, each(memory, lambda x: x[:, order]), each(recent, lambda x: x[:, [1, 0, 2]]))[
        0
    ]
    torch.testing.assert_close(turned, trust)
    recent.executed[:, 2] = 7.0  # of a masked row
    torch.testing.assert_close(trusting.estimate_trust(now, memory, recent)[0], trust)
    for changed in (replace(memory, code=memory.code + 1), replace(memory, proprio_next=memory.proprio_next + 1)):
        assert not torch.allclose(trusting.estimate_trust(now, changed, recent)[0], trust)
