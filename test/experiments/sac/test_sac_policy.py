# SPDX-License-Identifier: MIT
"""The squashed Gaussian policy, its temperature and its start, against independent references."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_sac import batch, make_sac
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from efn_ros.efn.actor import LOG_STD_RANGE
from efn_ros.experiments.sac.policy import phase_in, squashed_gaussian, start_nearly_deterministic, temperature_loss


@settings(deadline=None)
@given(st.lists(st.tuples(*(st.floats(-2, 2), st.floats(-4, 1), st.floats(-2, 2))), min_size=4, max_size=4))
def test_the_density_is_that_of_torch_distributions(numbers):
    mean, log_std, noise = torch.tensor(numbers, dtype=torch.float64).T.reshape(3, 1, 2, 2)
    squashed, log_prob = squashed_gaussian(mean, log_std, noise)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    expected = reference.log_prob(reference.transforms[0](mean + log_std.exp() * noise)).sum((1, 2))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(squashed, torch.tanh(mean + log_std.exp() * noise))


@pytest.mark.parametrize("u", [-60.0, -9.0, 0.0, 9.0, 60.0])
def test_density_and_gradient_are_accurate_for_extreme_means(u):
    mean = torch.tensor([[u]], requires_grad=True)
    log_prob = squashed_gaussian(mean, torch.zeros(1, 1), torch.zeros(1, 1))[1]
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    log_derivative = -2 * (abs(u) + math.log1p(math.exp(-2 * abs(u))) - math.log(2))  # of tanh at u
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - log_derivative, rel=1e-5)
    assert gradient.item() == pytest.approx(2 * math.tanh(u), abs=1e-5)


def test_xi_rises_linearly_from_zero_to_one():
    assert [phase_in(step, 100, 50) for step in (0, 100, 125, 150, 1000)] == [0, 0, 0.5, 1, 1]
    assert [phase_in(step, 3, 0) for step in (2, 3)] == [0, 1]
    with pytest.raises(ValueError, match=r"xi is 1.1; it must be in \[0, 1\]"):
        make_sac().xi = 1.1


def test_an_actor_can_start_nearly_deterministic():
    sac, before = make_sac(), make_sac()
    start_nearly_deterministic(sac.actor.layers[-1], -4.5)
    state = torch.from_numpy(batch().observation[0])
    (mean, log_std), (was, _) = sac.actor(state), before.actor(state)
    assert (log_std == -4.5).all() and torch.equal(mean, was)
    with pytest.raises(ValueError, match="log_std is -5.0; it must be between -5.0 and 2.0"):
        start_nearly_deterministic(sac.actor.layers[-1], LOG_STD_RANGE[0])


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-5, 5), st.floats(-5, 5))
def test_the_temperature_gradient_is_that_of_finite_differences_and_of_the_closed_form(log_alpha, entropy, target):
    at = lambda x: temperature_loss(torch.tensor(x, dtype=torch.float64), torch.tensor(entropy), target)  # noqa: E731
    parameter = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(temperature_loss(parameter, torch.tensor(entropy), target), parameter)
    step = 1e-4
    assert gradient == pytest.approx((at(log_alpha + step) - at(log_alpha - step)).item() / (2 * step), abs=1e-6)
    assert gradient == pytest.approx(entropy - target, abs=1e-5)
