# SPDX-License-Identifier: MIT
"""The conservative warm start of the critics (Cal-QL)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sac import CONFIG, A, ConstantActor, H, TableCritics, batch, make_sac, rows_of, tensors

from efn_ros.experiments.sac.config import SacConfig
from efn_ros.experiments.sac.sac import Sac


@pytest.mark.parametrize("slope, std, size", [(0.7, 1.0, 1), (-2.0, 0.7, 1), (0.5, 1.0, 3)])
def test_the_conservative_loss_is_the_log_of_an_integral(slope, std, size):
    """log of the integral of exp(slope a) over (-1, 1), in each dimension, less Q of what was done; of two critics."""
    config = SacConfig(bound=(1.0,) * size, conservative_actions=20_000)
    sac = Sac(config, ConstantActor(0.1, math.log(std), (size,)), TableCritics([[0.0], [1.0]], slope))
    rows = replace(rows_of([0], [0.0], [0], [True]), action=torch.full((1, size), 0.4))
    found = sac.conservative_loss(rows, sac.critics(*rows.observation, rows.action))
    expected = 2 * size * (math.log((math.exp(slope) - math.exp(-slope)) / slope) - slope * 0.4)
    assert found.item() == pytest.approx(expected, abs=0.05)


def test_a_known_return_bounds_the_policys_part_from_below():
    """Where Q = 0 and V = 3, half of the weight is the policy's: log of (2 + 2 e^3) / 2."""
    sac = Sac(SacConfig(bound=(1.0,), conservative_actions=20_000), ConstantActor(0.0, 0.0), TableCritics([[0.0]]))
    for known, expected in ((3.0, math.log((2 + 2 * math.exp(3.0)) / 2)), (-9.0, math.log(2))):
        rows = rows_of([0], [0.0], [0], [True], return_to_go=torch.tensor([known]))
        found = sac.conservative_loss(rows, sac.critics(*rows.observation, rows.action))
        assert found.item() == pytest.approx(expected, abs=0.05)


def test_a_conservative_start_values_executed_actions_above_others():
    plain, careful = (
        make_sac(replace(CONFIG, learning_rate=1e-2)),
        make_sac(replace(CONFIG, learning_rate=1e-2, conservative_weight=1.0)),
    )
    rows = replace(batch(64), done=np.ones(64, bool), action=np.full((64, H, A), 0.2, np.float32))
    seen, done = tensors(rows).observation, tensors(rows).action
    margin = []
    for sac in (plain, careful):
        for _ in range(100):
            sac.warm_start(rows)
        with torch.no_grad():
            margin.append((sac.critics(*seen, done) - sac.critics(*seen, -done)).mean().item())
    assert margin[1] > max(margin[0], 0) + 0.1
