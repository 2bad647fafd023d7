# SPDX-License-Identifier: MIT
"""Token-level entropic optimal transport against POT, SciPy and its properties."""

import math
import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from efn_ros.experiments.sac import sinkhorn
from efn_ros.experiments.sac.sinkhorn import cosine_affinity, sinkhorn_similarity, sinkhorn_transport
from efn_ros.features.sketches import Projection

SIZES = [(1, 1), (1, 7), (5, 5), (16, 9), (40, 64)]


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def pair(rows, columns, width=8, dtype=torch.float64):
    return tokens(rows, width, seed=rows, dtype=dtype), tokens(columns, width, seed=100 + columns, dtype=dtype)


def weights(count, seed=0):
    drawn = np.random.default_rng(seed).uniform(0.2, 1, count)
    return torch.from_numpy(drawn / drawn.sum())


def uniform(count):
    return torch.full((count,), 1 / count, dtype=torch.float64)


def pot(affinity, r, c, epsilon, iterations, method="sinkhorn"):
    """POT updates columns before rows, so the problem is given to it, and comes back, transposed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so many iterations do not converge
        plan = ot.sinkhorn(
            c.numpy(), r.numpy(), -affinity.numpy().T, epsilon, method=method, numItermax=iterations, stopThr=0
        )
    return plan.T


def pot_unbalanced(affinity, r, c, epsilon, iterations, taus):
    """Equation (58) is POT's reg_type "entropy"; its "kl" penalises KL(P | r c^T) instead of -H(P)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that "entropy" sets the reference to ones
        return ot.unbalanced.sinkhorn_unbalanced(
            *(r.numpy(), c.numpy(), -affinity.numpy(), epsilon, taus),
            **{"reg_type": "entropy", "numItermax": iterations, "stopThr": 0},
        )


def assert_is(transport, plan, atol=1e-9):
    affinity = transport.affinity.double().numpy()
    score = (np.clip((plan * affinity).sum(), -1, 1) + 1) / 2
    np.testing.assert_allclose(transport.plan.double().numpy(), plan, atol=atol)
    np.testing.assert_allclose(float(transport.score), score, atol=atol)


@pytest.fixture
def only_exponentials(monkeypatch):
    monkeypatch.setattr(sinkhorn, "_log_plan", None)


@pytest.fixture
def only_logarithms(monkeypatch):
    monkeypatch.setattr(sinkhorn, "_exp_plan", None)


# Other libraries


@pytest.mark.parametrize("rows, columns", SIZES)
@pytest.mark.parametrize("iterations", [1, 3, 50])
@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_log"])
def test_plan_and_score_are_those_of_pot_after_every_number_of_iterations(rows, columns, iterations, method):
    affinity = cosine_affinity(*pair(rows, columns))
    expected = pot(affinity, uniform(rows), uniform(columns), 0.05, iterations, method)
    assert_is(sinkhorn_transport(affinity, iterations=iterations), expected)


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 1.0])
def test_float32_agrees_with_pot_to_1e_5_over_the_range_of_the_paper(epsilon, only_exponentials):
    x, y = pair(64, 64, width=32, dtype=torch.float32)
    affinity = cosine_affinity(x, y)
    expected = pot(affinity.double(), uniform(64), uniform(64), epsilon, 50)
    assert_is(sinkhorn_transport(affinity, epsilon=epsilon), expected, atol=1e-5)


@pytest.mark.parametrize("rows, columns", SIZES)
def test_marginals_as_spatial_priors_are_those_of_pot(rows, columns):
    affinity, r, c = cosine_affinity(*pair(rows, columns)), weights(rows), weights(columns, 1)
    assert_is(sinkhorn_transport(affinity, r=r, c=c), pot(affinity, r, c, 0.05, 50))


@pytest.mark.parametrize("taus", [(0.5, 0.5), (0.1, 2.0), (math.inf, 0.3), (0.3, math.inf)])
@pytest.mark.parametrize("rows, columns", SIZES)
@pytest.mark.parametrize("iterations", [1, 50])
def test_the_unbalanced_form_is_that_of_pot_with_an_entropy(rows, columns, iterations, taus):
    affinity, r, c = cosine_affinity(*pair(rows, columns)), weights(rows), weights(columns, 1)
    expected = pot_unbalanced(affinity, r, c, 0.1, iterations, taus)
    options = {"epsilon": 0.1, "iterations": iterations, "r": r, "c": c, "tau_r": taus[0], "tau_c": taus[1]}
    assert_is(sinkhorn_transport(affinity, **options), expected, atol=1e-9 * max(1, expected.max()))


@pytest.mark.parametrize("rows, columns", [(5, 5), (16, 9)])
def test_logarithms_are_used_and_accurate_beyond_the_range_of_float64(rows, columns, only_logarithms):
    affinity = cosine_affinity(*pair(rows, columns))
    expected = pot(affinity, uniform(rows), uniform(columns), 1e-3, 50, "sinkhorn_log")
    assert_is(sinkhorn_transport(affinity, epsilon=1e-3), expected)


@pytest.mark.parametrize("taus", [(math.inf, math.inf), (0.4, 0.7)])
def test_logarithms_and_exponentials_agree(taus, monkeypatch):
    options = {"epsilon": 0.05, "tau_r": taus[0], "tau_c": taus[1], "r": weights(12)}
    affinity = cosine_affinity(*pair(12, 9))
    plain = sinkhorn_transport(affinity, **options)

    def instead(exponents, r, c, out, iterations, rho):
        return sinkhorn._log_plan(exponents, r, c, out, iterations, rho, room=600)

    monkeypatch.setattr(sinkhorn, "_exp_plan", instead)
    assert_is(plain, sinkhorn_transport(affinity, **options).plan.numpy())


@pytest.mark.parametrize("taus", [(math.inf, math.inf), (0.4, 0.7)])
def test_float32_goes_over_to_logarithms_without_a_jump(taus):
    """-1 and 1 in blocks is the hardest affinity: scalings reach the ends of their range."""
    affinity = torch.full((24, 24), -1.0)
    affinity[:12, :-1] = affinity[12:, -1:] = 1
    for epsilon in np.geomspace(0.02, 0.05, 9):
        options = {"epsilon": float(epsilon), "tau_r": taus[0], "tau_c": taus[1]}
        single = sinkhorn_transport(affinity, **options).plan
        double = sinkhorn_transport(affinity.double(), **options).plan
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5 * float(double.max()))


@pytest.mark.parametrize("seed", range(3))
def test_a_small_epsilon_finds_the_best_assignment(seed):
    affinity = cosine_affinity(tokens(8, 6, seed=seed), tokens(8, 6, seed=seed + 10))
    rows, columns = linear_sum_assignment(affinity.numpy(), maximize=True)
    permutation = torch.zeros(8, 8, dtype=torch.float64)
    permutation[rows, columns] = 1 / 8
    transport = sinkhorn_transport(affinity, epsilon=1e-3, iterations=3000)
    torch.testing.assert_close(transport.plan, permutation, atol=1e-3, rtol=0)
    assert float(transport.score) == pytest.approx((float(affinity[rows, columns].mean()) + 1) / 2, abs=1e-3)


# Properties


def test_marginals_hold():
    r, c = weights(10), weights(14, 1)
    plan = sinkhorn_transport(cosine_affinity(*pair(10, 14)), r=r, c=c, epsilon=0.1, iterations=500).plan
    torch.testing.assert_close(plan.sum(1), r)
    torch.testing.assert_close(plan.sum(0), c)


def test_marginals_are_normalised():
    affinity, r = cosine_affinity(*pair(10, 14)), weights(10)
    torch.testing.assert_close(
        sinkhorn_transport(affinity, r=5 * r).plan, sinkhorn_transport(affinity, r=r.tolist()).plan
    )


def test_large_penalties_approach_the_balanced_problem():
    affinity = cosine_affinity(*pair(10, 10))
    balanced = sinkhorn_transport(affinity, iterations=500).plan
    relaxed = sinkhorn_transport(affinity, iterations=500, tau_r=1e4, tau_c=math.inf).plan
    torch.testing.assert_close(relaxed, balanced, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cosine", [-1.0, 0.5])
def test_with_finite_penalties_mass_follows_the_affinity(cosine):
    """For one affinity everywhere, (58) has the mass exp((S + epsilon log(Tx Ty)) / (tau_r + tau_c + epsilon))."""
    affinity = torch.full((10, 10), cosine, dtype=torch.float64)
    plan = sinkhorn_transport(affinity, epsilon=0.1, iterations=500, tau_r=0.5, tau_c=0.5).plan
    assert float(plan.sum().log()) == pytest.approx((cosine + 0.1 * math.log(100)) / (0.5 + 0.5 + 0.1))


@pytest.mark.parametrize("epsilon", [0.05, 0.002])
@pytest.mark.parametrize("taus", [{}, {"tau_r": 0.5, "tau_c": 0.5}])
def test_a_token_of_weight_zero_counts_as_absent(epsilon, taus):
    x, y = pair(6, 5)
    r, c = uniform(6).clone(), uniform(5).clone()
    r[2], c[0] = 0, 0
    options = {"epsilon": epsilon, **taus}
    x.requires_grad_()
    masked = sinkhorn_similarity(x, y, r=r, c=c, **options)
    without = sinkhorn_similarity(x[[0, 1, 3, 4, 5]], y[1:], **options)
    torch.testing.assert_close(masked, without)
    (gradient,) = torch.autograd.grad(masked, x)
    assert gradient.isfinite().all() and not gradient[2].any()


def test_the_score_of_distinct_tokens_with_themselves_is_near_one():
    x = tokens(32, 64)
    assert float(sinkhorn_similarity(x, x, epsilon=0.03)) > 0.999


def test_an_observation_is_nearer_to_itself_with_noise_than_to_another():
    x = tokens(32, 16)
    noisy = x + 0.3 * tokens(32, 16, seed=1)
    assert sinkhorn_similarity(x, noisy) > sinkhorn_similarity(x, tokens(32, 16, seed=2)) + 0.1


def test_a_scene_that_matches_by_half_has_a_score_between():
    """The score (53) responds although only a part of the tokens matches."""
    x, other = tokens(32, 64), tokens(32, 64, seed=1)
    half = torch.cat([x[:16], other[16:]])
    none, some, full = (float(sinkhorn_similarity(x, y, epsilon=0.03)) for y in (other, half, x))
    assert none + 0.1 < some < full - 0.1


@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-9, 9, width=32)), st.data())
@settings(max_examples=60, deadline=None)
def test_scores_are_between_zero_and_one_and_plans_are_probabilities(x, data):
    y = data.draw(arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-9, 9, width=32)))
    epsilon, tau = data.draw(st.floats(1e-3, 10)), data.draw(st.sampled_from([0.2, 2.0, math.inf]))
    affinity = cosine_affinity(torch.from_numpy(x), torch.from_numpy(y))
    transport = sinkhorn_transport(affinity, epsilon=epsilon, tau_r=tau, tau_c=tau)
    assert affinity.abs().max() <= 1 + 1e-6
    assert 0 <= float(transport.score) <= 1 and transport.plan.isfinite().all() and (transport.plan >= 0).all()
    if tau == math.inf:
        torch.testing.assert_close(transport.plan.sum(0), torch.full((len(y),), 1 / len(y)), rtol=1e-3, atol=0)


@given(st.integers(0, 999), st.floats(0.2, 1), st.sampled_from([{}, {"tau_r": 0.5, "tau_c": 0.5}]))
@settings(max_examples=25, deadline=None)
def test_observations_may_be_exchanged_and_tokens_shuffled_and_scaled(seed, epsilon, taus):
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.standard_normal((count, 4))) for count in rng.integers(1, 9, 2))
    options = {"epsilon": epsilon, "iterations": 1000, **taus}
    score = sinkhorn_similarity(x, y, **options)
    torch.testing.assert_close(sinkhorn_similarity(y, x, **options), score, atol=1e-5, rtol=0)
    shuffled = x[torch.from_numpy(rng.permutation(len(x)))]
    torch.testing.assert_close(sinkhorn_similarity(shuffled, y, **options), score)
    scaled = x * torch.from_numpy(rng.uniform(1, 10, (len(x), 1)))
    torch.testing.assert_close(sinkhorn_similarity(scaled, y, **options), score, atol=1e-5, rtol=0)


def test_zero_tokens_have_a_neutral_score():
    zeros = torch.zeros(3, 4)
    assert float(sinkhorn_similarity(zeros, tokens(5, 4, dtype=torch.float32))) == 0.5
    assert float(sinkhorn_similarity(zeros, zeros)) == 0.5


# Batches


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("cache", [1, 3 * 7 * 5 * 4, sinkhorn.CACHE])
def test_a_batch_equals_its_observations_one_by_one(epsilon, cache, monkeypatch):
    monkeypatch.setattr(sinkhorn, "CACHE", cache)
    x, y = tokens(2, 4, 7, 6, dtype=torch.float32), tokens(2, 4, 5, 6, seed=1, dtype=torch.float32)
    r = torch.rand(4, 7, generator=torch.Generator().manual_seed(0)) + 0.1
    batch = sinkhorn_transport(cosine_affinity(x, y), epsilon=epsilon, r=r)
    assert batch.score.shape == (2, 4) and batch.plan.shape == batch.affinity.shape == (2, 4, 7, 5)
    for i, j in np.ndindex(2, 4):
        one = sinkhorn_transport(cosine_affinity(x[i, j], y[i, j]), epsilon=epsilon, r=r[j])
        assert one.score.shape == () and one.plan.shape == (7, 5)
        torch.testing.assert_close(batch.plan[i, j], one.plan, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(batch.score[i, j], one.score)


def test_one_observation_is_compared_with_many():
    x, y = tokens(7, 6), tokens(3, 5, 6, seed=1)
    expected = torch.stack([sinkhorn_similarity(x, other) for other in y])
    torch.testing.assert_close(sinkhorn_similarity(x, y), expected)
    torch.testing.assert_close(sinkhorn_similarity(x[None, None], y[:, None]), expected[:, None])


def test_views_give_the_same_as_copies():
    x, y = tokens(6, 7), tokens(6, 5, seed=1)
    torch.testing.assert_close(sinkhorn_similarity(x.mT, y.mT), sinkhorn_similarity(x.mT.clone(), y.mT.clone()))
    affinity = cosine_affinity(x.mT, y.mT)
    torch.testing.assert_close(
        sinkhorn_transport(affinity.mT.expand(3, 5, 7)).plan,
        sinkhorn_transport(affinity.mT.contiguous()).plan.expand(3, 5, 7),
    )


# Gradients


@pytest.mark.parametrize("options", [{}, {"tau_r": 0.5, "tau_c": 0.3}, {"tau_r": 0.5}, {"epsilon": 2e-3}])
def test_gradients_of_the_score_are_right(options):
    x, y = tokens(2, 4, 5).requires_grad_(), tokens(2, 3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *xy: sinkhorn_similarity(*xy, iterations=4, **options), (x, y))


@pytest.mark.parametrize("epsilon", [0.1, 2e-3])
def test_gradients_of_the_plan_and_of_spatial_priors_are_right(epsilon):
    affinity = cosine_affinity(*pair(4, 3)).requires_grad_()
    r, c = weights(4).requires_grad_(), weights(3, 1).requires_grad_()

    def plan(affinity, r, c):
        return sinkhorn_transport(affinity, r=r, c=c, epsilon=epsilon, iterations=4).plan

    assert torch.autograd.gradcheck(plan, (affinity, r, c))


@pytest.mark.parametrize("epsilon", [0.05, 2e-3])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_result_is_the_same_and_inputs_are_unchanged(epsilon, mode):
    x, y = tokens(2, 7, 6).requires_grad_(), tokens(2, 5, 6, seed=1)
    with_gradients = sinkhorn_transport(cosine_affinity(x, y), epsilon=epsilon)
    assert with_gradients.score.requires_grad
    with mode():
        affinity = cosine_affinity(x, y)
        before = [tensor.clone() for tensor in (x, y, affinity)]
        transport = sinkhorn_transport(affinity, epsilon=epsilon)
        assert all(torch.equal(now, then) for now, then in zip((x, y, affinity), before, strict=True))
        assert transport.affinity is affinity and transport.plan.data_ptr() != affinity.data_ptr()
    torch.testing.assert_close(transport.plan, with_gradients.plan.detach())
    torch.testing.assert_close(transport.score, with_gradients.score.detach())


def test_a_step_along_the_gradient_raises_the_score():
    x, y = tokens(8, 6).requires_grad_(), tokens(8, 6, seed=1)
    score = sinkhorn_similarity(x, y)
    score.backward()
    assert sinkhorn_similarity((x + 0.1 * x.grad).detach(), y) > score


# Sketches


def test_sketches_have_nearly_the_score_of_their_tokens():
    x = tokens(20, 64, dtype=torch.float32)
    y = x + 0.5 * tokens(20, 64, seed=1, dtype=torch.float32)
    projection = Projection(64, 256)
    a, b = (torch.from_numpy(projection.sketch(part.numpy()).dequantise()) for part in (x, y))
    score = float(sinkhorn_similarity(a, b, iterations=20))
    assert score == pytest.approx(float(sinkhorn_similarity(x, y, iterations=20)), abs=0.05)


# What is refused

GOOD = torch.ones(3, 4)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (torch.ones(4), GOOD, r"x has shape \(4,\)"),
        (GOOD, torch.ones(0, 4), r"y has shape \(0, 4\).*no axis empty"),
        (torch.ones(0, 3, 4), GOOD, r"x has shape \(0, 3, 4\)"),
        (GOOD, torch.ones(3, 5), "tokens of x have width 4, those of y 5"),
        (GOOD.half(), GOOD.half(), "x is torch.float16"),
        (GOOD, GOOD.double(), "y is torch.float64; x and y must both be float32"),
        (torch.ones(2, 3, 4), torch.ones(5, 3, 4), r"\(2, 3, 4\) and y of \(5, 3, 4\): batches do not broadcast"),
        (GOOD * math.nan, GOOD, "x holds a token that is not finite"),
        (GOOD, torch.tensor([[1.0, 1, 1, 1], [1, 1, -math.inf, 1]]), "y holds a token that is not finite"),
        (GOOD, GOOD * 1e30, "y holds a token .* whose norm torch.float32 cannot hold"),
    ],
)
def test_refuses_tokens_by_name(x, y, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_similarity(x, y)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epsilon": 0}, "epsilon is 0; with torch.float32 it must be finite and at least 0.00035"),
        ({"epsilon": -1}, "epsilon is -1"),
        ({"epsilon": 1e-5}, "epsilon is 1e-05"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": math.inf}, "epsilon is inf"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"tau_r": 0}, "tau_r is 0; it must be above 0"),
        ({"tau_c": math.nan}, "tau_c is nan"),
        ({"r": torch.ones(4)}, r"r has shape \(4,\), which does not broadcast to \(3,\)"),
        ({"r": torch.tensor([1.0, -1, 1])}, "r holds weights that are negative"),
        ({"c": torch.zeros(3)}, "c holds weights .* all 0"),
        ({"c": torch.tensor([1.0, math.nan, 1])}, "c holds weights .* not finite"),
        ({"c": torch.tensor([1.0, math.inf, 1])}, "c holds weights .* not finite"),
    ],
)
def test_refuses_options_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_similarity(GOOD, GOOD, **options)


@pytest.mark.parametrize(
    "affinity, message",
    [
        (torch.ones(3), r"affinity has shape \(3,\)"),
        (torch.ones(2, 0, 3), r"affinity has shape \(2, 0, 3\)"),
        (torch.ones(3, 3, dtype=torch.int64), "affinity is torch.int64; it must be float32 or float64"),
        (torch.tensor([[math.nan]]), "affinity holds values that are not finite"),
        (torch.tensor([[1.0, -math.inf]]), "affinity holds values that are not finite"),
    ],
)
def test_refuses_an_affinity_by_name(affinity, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_transport(affinity)
