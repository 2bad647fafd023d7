"""Soft actor-critic: each equation beside an independent reference, then that it learns what another library learns."""

import importlib.util
import json
import math
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from efn_ros.efn.actor import LOG_STD_RANGE, Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.efn.config import EfnConfig
from efn_ros.experiments.sac.replay import Replay, Transition, tree_map
from efn_ros.experiments.sac.sac import (
    MlpActor,
    MlpCritics,
    Sac,
    SacConfig,
    phase_in,
    squashed_gaussian,
    start_nearly_deterministic,
    temperature_loss,
)

BENCH = Path(__file__).parents[3] / "bench"
STATE, H, A, WIDTH = 3, 2, 2, 16
CONFIG = SacConfig(bound=(0.5, 0.25), gamma=0.9)


def made(config=CONFIG, n=2, seed=0) -> Sac:
    torch.manual_seed(seed)
    return Sac(config, MlpActor(STATE, (H, A), (WIDTH,)), MlpCritics(STATE + H * A, (WIDTH, WIDTH), n))


def batch(size=8, seed=0) -> Transition:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal((size, *shape), dtype=np.float32)  # noqa: E731
    return Transition((draw(STATE),), draw(H, A), draw(), (draw(STATE),), rng.random(size) < 0.3)


def tensors(rows: Transition) -> Transition:
    return tree_map(lambda _, x: torch.from_numpy(x), rows)


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Constant(nn.Module):
    """An actor that is the same everywhere."""

    def __init__(self, mean=0.0, log_std=-1.0, shape=(1,)):
        super().__init__()
        self.mean, self.log_std = (nn.Parameter(torch.full(shape, float(x))) for x in (mean, log_std))

    def forward(self, state):
        return (x.expand(len(state), *x.shape) for x in (self.mean, self.log_std))


class Table(nn.Module):
    """Critics of states that are whole numbers: values (n, states), a slope for all actions."""

    def __init__(self, values, slope=0.0):
        super().__init__()
        self.values, self.slope, self.n = nn.Parameter(torch.tensor(values)), slope, len(values)

    def forward(self, state, action, members=None):
        values = self.values if members is None else self.values[members]
        return values[:, state[:, 0].long()] + self.slope * action.flatten(1).sum(1)


class Ensemble(nn.Module):
    """Any critics side by side."""

    def __init__(self, critics):
        super().__init__()
        self.members = nn.ModuleList(critics)
        self.n = len(self.members)

    def forward(self, *inputs, members=None):
        chosen = range(self.n) if members is None else members.tolist()
        return torch.stack([self.members[i](*inputs) for i in chosen])


def transitions(states, rewards, following, done, **more) -> Transition:
    column = lambda x: torch.tensor(x, dtype=torch.float32)  # noqa: E731
    actions = torch.zeros(len(states), 1)
    return Transition(
        (column(states)[:, None],), actions, column(rewards), (column(following)[:, None],), torch.tensor(done), **more
    )


def entropy_of_squashed(std: float) -> float:
    """That of tanh(N(0, std^2)), by quadrature."""
    u = np.linspace(-12 * std, 12 * std, 200_001)
    p = np.exp(-0.5 * (u / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return float(np.trapezoid(p * (-np.log(np.maximum(p, 1e-300)) + np.log(1 - np.tanh(u) ** 2)), u))


# The policy


@settings(deadline=None)
@given(st.lists(st.tuples(*(st.floats(-2, 2), st.floats(-4, 1), st.floats(-2, 2))), min_size=4, max_size=4))
def test_the_density_is_that_of_torchs_distributions(numbers):
    mean, log_std, noise = torch.tensor(numbers, dtype=torch.float64).T.reshape(3, 1, 2, 2)
    squashed, log_prob = squashed_gaussian(mean, log_std, noise)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    expected = reference.log_prob(reference.transforms[0](mean + log_std.exp() * noise)).sum((1, 2))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(squashed, torch.tanh(mean + log_std.exp() * noise))


@pytest.mark.parametrize("u", [-60.0, -9.0, 0.0, 9.0, 60.0])
def test_far_out_density_and_gradient_stay_finite_and_right(u):
    mean = torch.tensor([[u]], requires_grad=True)
    log_prob = squashed_gaussian(mean, torch.zeros(1, 1), torch.zeros(1, 1))[1]
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    log_derivative = -2 * (abs(u) + math.log1p(math.exp(-2 * abs(u))) - math.log(2))  # of tanh at u
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - log_derivative, rel=1e-5)
    assert gradient.item() == pytest.approx(2 * math.tanh(u), abs=1e-5)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 100))
def test_residuals_stay_within_their_share_of_the_bound(xi, seed):
    sac = made(replace(CONFIG, seed=seed))
    nn.init.normal_(sac.actor.layers[-1].weight, std=10.0)
    sac.xi = xi
    action = sac.act(batch(seed=seed).observation)
    assert action.shape == (8, H, A) and (action.abs() <= xi * torch.tensor(CONFIG.bound)).all()


def test_without_a_draw_it_is_the_mean_squashed_and_bounded():
    sac, seen = made(), batch().observation
    mean, _ = sac.actor(torch.from_numpy(seen[0]))
    sac.xi = 0.5
    torch.testing.assert_close(
        sac.act(seen, deterministic=True), 0.5 * torch.tensor(CONFIG.bound) * torch.tanh(mean).detach()
    )


def test_neither_units_nor_xi_move_the_density():
    densities = []
    for bound, xi in (((0.5, 0.25), 1.0), ((50.0, 1.0), 0.0)):
        sac = made(replace(CONFIG, bound=bound))
        sac.xi = xi
        densities.append(sac.propose(tensors(batch()).observation)[1])
    assert torch.equal(*densities)


def test_xi_is_raised_from_nothing_to_all():
    assert [phase_in(step, 100, 50) for step in (0, 100, 125, 150, 1000)] == [0, 0, 0.5, 1, 1]
    assert [phase_in(step, 3, 0) for step in (2, 3)] == [0, 1]
    with pytest.raises(ValueError, match=r"xi is 1.1; it must be in \[0, 1\]"):
        made().xi = 1.1


def test_a_start_may_be_nearly_deterministic():
    sac, before = made(), made()
    start_nearly_deterministic(sac.actor.layers[-1], -4.5)
    seen = torch.from_numpy(batch().observation[0])
    (mean, log_std), (was, _) = sac.actor(seen), before.actor(seen)
    assert (log_std == -4.5).all() and torch.equal(mean, was)
    with pytest.raises(ValueError, match="log_std is -5.0; it must be between -5.0 and 2.0"):
        start_nearly_deterministic(sac.actor.layers[-1], LOG_STD_RANGE[0])


# Temperature


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-5, 5), st.floats(-5, 5))
def test_the_temperatures_gradient_is_that_of_finite_differences_and_of_the_closed_form(log_alpha, entropy, target):
    at = lambda x: temperature_loss(torch.tensor(x, dtype=torch.float64), torch.tensor(entropy), target)  # noqa: E731
    parameter = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(temperature_loss(parameter, torch.tensor(entropy), target), parameter)
    step = 1e-4
    assert gradient == pytest.approx((at(log_alpha + step) - at(log_alpha - step)).item() / (2 * step), abs=1e-6)
    assert gradient == pytest.approx(entropy - target, abs=1e-5)


@pytest.mark.parametrize("target, direction", [(0.69, 1), (-9.0, -1), (None, 0)])
def test_the_temperature_rises_while_the_policy_is_less_random_than_it_should_be(target, direction):
    sac = made(replace(CONFIG, target_entropy=target, weight_decay=0.5))
    before = sac.temperature
    sac.update(batch())
    assert (sac.temperature - before).sign() == direction


def test_the_target_counts_all_degrees_of_freedom_of_a_chunk():
    """Adam's first moment after one update is a tenth of the gradient, which tells the target."""
    sac = made(replace(CONFIG, target_entropy=-0.25))
    entropy = sac.update(batch())["entropy"]
    moment = sac.state_dict()["actor_optimiser.log_temperature.exp_avg"]
    assert moment == pytest.approx(0.1 * (entropy.item() + 0.25 * H * A), rel=1e-4)


# Targets and critics


def test_the_target_of_a_tiny_world_is_that_computed_by_hand():
    sac = Sac(
        SacConfig(bound=(1.0,), gamma=0.5, temperature=1e-12), Constant(), Table([[1.0, 4.0, 9.0], [2.0, 3.0, 7.0]])
    )
    rows = transitions([0, 0, 1], [0.5, 1.0, -2.0], [1, 2, 0], [False, True, False])
    expected = torch.tensor([0.5 + 0.5 * min(4.0, 3.0), 1.0, -2.0 + 0.5 * min(1.0, 2.0)])
    torch.testing.assert_close(sac.soft_target(rows), expected)


def test_being_random_is_worth_its_entropy():
    alpha, gamma, std, count = 0.3, 0.5, 0.8, 40_000
    sac = Sac(SacConfig(bound=(7.0,), gamma=gamma, temperature=alpha), Constant(0.0, math.log(std)), Table([[2.0]] * 2))
    found = sac.soft_target(transitions([0] * count, [1.0] * count, [0] * count, [False] * count)).mean()
    assert found == pytest.approx(1.0 + gamma * (2.0 + alpha * entropy_of_squashed(std)), abs=5e-3)


def test_critics_come_to_the_soft_values_of_a_chain():
    """0 -> 1 -> end, paid 0 and 1: Q(1) = 1 and Q(0) = gamma (Q(1) + alpha H)."""
    alpha, gamma, std, size = 0.2, 0.9, 0.5, 256
    config = SacConfig(
        bound=(1.0,), gamma=gamma, temperature=alpha, target_entropy=None, learning_rate=0.02, polyak=0.1
    )
    sac = Sac(config, Constant(0.0, math.log(std)), Table([[5.0, -3.0], [0.0, 2.0]]))
    chain = transitions([0, 1] * size, [0.0, 1.0] * size, [1, 0] * size, [False, True] * size)
    for _ in range(600):
        sac.warm_start(chain)
    expected = [gamma * (1 + alpha * entropy_of_squashed(std)), 1.0]
    np.testing.assert_allclose(sac.critics.values.detach().numpy(), [expected] * 2, atol=0.02)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [None, [2, 0]])
def test_critics_at_once_are_a_loop_over_single_ones(layer_norm, members):
    torch.manual_seed(0)
    critics = MlpCritics(STATE + H * A, (WIDTH, WIDTH), n=3, layer_norm=layer_norm)
    rows = tensors(batch())
    inputs = (*rows.observation, rows.action)

    def single(i):
        layers = []
        for weight, bias in zip(critics.weights, critics.biases, strict=True):
            layers.append(nn.Linear(*weight.shape[1:]))
            layers[-1].weight.data, layers[-1].bias.data = weight[i].detach().T.clone(), bias[i, 0].detach().clone()
            layers += [nn.LayerNorm(WIDTH)] * layer_norm + [nn.ReLU()]
        return nn.Sequential(*layers[: -1 - layer_norm])

    singles = [single(i) for i in members or range(3)]
    together = critics(*inputs, members=members and torch.tensor(members))
    alone = torch.stack([s(torch.cat([x.flatten(1) for x in inputs], 1)).squeeze(-1) for s in singles])
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    alone.square().sum().backward()
    for i, one in zip(members or range(3), singles, strict=True):
        linears = [layer for layer in one if isinstance(layer, nn.Linear)]
        for linear, weight, bias in zip(linears, critics.weights, critics.biases, strict=True):
            torch.testing.assert_close(weight.grad[i], linear.weight.grad.T)
            torch.testing.assert_close(bias.grad[i, 0], linear.bias.grad)


def test_of_many_critics_the_least_of_two_drawn_ones_counts():
    values = [3.0, 1.0, 4.0, 1.5]
    sac = Sac(SacConfig(bound=(1.0,), gamma=1.0, temperature=1e-12), Constant(), Table([[v] for v in values]))
    drawn = {sac.soft_target(transitions([0], [0.0], [0], [False])).item() for _ in range(200)}
    assert drawn == {min(pair) for pair in combinations(values, 2)}


def test_targets_follow_the_critics_slowly():
    sac = made(replace(CONFIG, polyak=0.1, learning_rate=0.1))
    before = weights(sac.targets)
    sac.update(batch())
    expected = [0.9 * old + 0.1 * new for old, new in zip(before, weights(sac.critics), strict=True)]
    for found, wanted in zip(weights(sac.targets), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not any(t.requires_grad for t in sac.targets.parameters())


def test_the_loss_is_that_of_equation_12():
    sac = made(replace(CONFIG, temperature=1e-12))
    rows = replace(batch(), done=np.ones(8, bool))
    values = sac.critics(*tensors(rows).observation, tensors(rows).action).detach().numpy()
    expected = sum(np.mean((v - rows.reward) ** 2) for v in values)
    assert sac.update(rows)["critic_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_what_the_actor_descends_is_equation_13():
    """Along the slope of the critics by hand: of -Q, with almost no entropy to win."""
    sac = Sac(SacConfig(bound=(2.0,), temperature=1e-12), Constant(0.3, -20.0), Table([[0.0]] * 2, slope=1.5))
    sac.update(transitions([0], [0.0], [0], [True]))
    gradient = sac.state_dict()["actor_optimiser.mean.exp_avg"].item() / 0.1
    assert gradient == pytest.approx(-1.5 * 2.0 * (1 - math.tanh(0.3) ** 2), rel=1e-4)


@pytest.mark.parametrize("every", [1, 3])
def test_the_actor_learns_at_every_so_many_updates(every):
    sac, moved = made(replace(CONFIG, actor_every=every)), []
    for i in range(6):
        before = weights(sac.actor)
        sac.update(batch(seed=i))
        moved.append(not same(before, weights(sac.actor)))
    assert moved == [(i + 1) % every == 0 for i in range(6)]


def test_a_warm_start_is_the_critics_alone():
    sac = made(replace(CONFIG, conservative=1.0))
    actor, critics, temperature = weights(sac.actor), weights(sac.critics), sac.temperature
    sac.warm_start(batch())
    assert same(actor, weights(sac.actor)) and temperature == sac.temperature
    assert not same(critics, weights(sac.critics))


def test_an_actor_may_learn_more_slowly_than_critics_and_temperature():
    """Adam's first step is as long as the learning rate."""
    sac = made(replace(CONFIG, learning_rate=1e-3, actor_learning_rate=1e-5))
    before = {part: weights(module) for part, module in (("actor", sac.actor), ("critics", sac.critics))}
    temperature = sac.log_temperature.item()
    sac.update(batch())
    for part, module, rate in (("actor", sac.actor, 1e-5), ("critics", sac.critics, 1e-3)):
        moved = max((a - b).abs().max().item() for a, b in zip(before[part], weights(module), strict=True))
        assert moved == pytest.approx(rate, rel=0.05)
    assert abs(sac.log_temperature.item() - temperature) == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_an_anchor_holds_the_mean_where_the_critics_pull(weight):
    config = SacConfig(bound=(1.0,), temperature=1e-12, learning_rate=0.05, anchor=weight)
    sac = Sac(config, Constant(0.2, -5.0), Table([[0.0]] * 2, slope=1.5), anchor=Constant(0.2))
    for _ in range(100):
        sac.update(transitions([0], [0.0], [0], [True]))
    moved = (torch.tanh(sac.actor.mean) - math.tanh(0.2)).item()
    if weight:  # where -1.5 + 2 weight moved = 0
        assert moved == pytest.approx(1.5 / (2 * weight), rel=0.1)
    else:
        assert moved > 0.5


def test_a_gradient_is_clipped():
    sac = made(replace(CONFIG, clip=1e-3))
    sac.update(batch())
    state = sac.state_dict().items()
    moments = [t for name, t in state if name.startswith("critics_optimiser") and name.endswith("exp_avg")]
    assert math.sqrt(sum((t / 0.1).square().sum().item() for t in moments)) == pytest.approx(1e-3, rel=1e-3)


# Conservative warm start


@pytest.mark.parametrize("slope, std, size", [(0.7, 1.0, 1), (-2.0, 0.7, 1), (0.5, 1.0, 3)])
def test_the_conservative_term_is_the_log_of_an_integral(slope, std, size):
    """log of the integral of exp(slope a) over (-1, 1), in each dimension, less Q of what was done; of two critics."""
    config = SacConfig(bound=(1.0,) * size, conservative_actions=20_000)
    sac = Sac(config, Constant(0.1, math.log(std), (size,)), Table([[0.0], [1.0]], slope))
    rows = replace(transitions([0], [0.0], [0], [True]), action=torch.full((1, size), 0.4))
    found = sac.conservatism(rows, sac.critics(*rows.observation, rows.action))
    expected = 2 * size * (math.log((math.exp(slope) - math.exp(-slope)) / slope) - slope * 0.4)
    assert found.item() == pytest.approx(expected, abs=0.05)


def test_a_return_that_is_known_holds_up_the_policys_part():
    """Where Q = 0 and V = 3, half of the weight is the policy's: log of (2 + 2 e^3) / 2."""
    sac = Sac(SacConfig(bound=(1.0,), conservative_actions=20_000), Constant(0.0, 0.0), Table([[0.0]]))
    for known, expected in ((3.0, math.log((2 + 2 * math.exp(3.0)) / 2)), (-9.0, math.log(2))):
        rows = transitions([0], [0.0], [0], [True], return_to_go=torch.tensor([known]))
        found = sac.conservatism(rows, sac.critics(*rows.observation, rows.action))
        assert found.item() == pytest.approx(expected, abs=0.05)


def test_a_conservative_start_values_what_was_done_above_what_was_not():
    plain, careful = (
        made(replace(CONFIG, learning_rate=1e-2)),
        made(replace(CONFIG, learning_rate=1e-2, conservative=1.0)),
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


# Disagreement


def test_disagreement_is_the_spread_of_the_critics():
    sac = Sac(SacConfig(bound=(1.0,)), Constant(), Table([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]]))
    rows = transitions([0, 1], [0, 0], [0, 0], [True, True])
    expected = [np.std([1.0, 3.0, 8.0]), 0.0]
    np.testing.assert_allclose(sac.disagreement(rows.observation, rows.action), expected, rtol=1e-6)


# The EFN as the actor


class Values(nn.Module):
    """A critic of the EFN's observations, as small as it gets."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * H * A, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, present, recalled, action):
        relative = action / torch.tensor(CONFIG.bound)
        return self.layers(torch.cat([present.base.flatten(1), relative.flatten(1)], 1)).squeeze(-1)


def efn() -> Efn:
    torch.manual_seed(0)
    proprio = {name: (1.0,) * STATE for name in ("proprio_mean", "proprio_std", "motion_std")}
    sizes = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16}
    return Efn(
        EfnConfig(horizon=H, action_size=A, latent=(2, 4), sketch=(3, 5), bound=CONFIG.bound, **proprio, **sizes)
    )


def seen(size=32, k=3) -> tuple[Present, Recalled]:
    r = torch.randn
    present = {"latent": r(size, 2, 4), "sketch": r(size, 3, 5), "proprio": r(size, STATE), "base": r(size, H, A)}
    recalled = {name: r(size, k) for name in ("success", "similarity")}
    recalled |= {name: r(size, k, H, A) for name in ("executed", "base", "executed_before")}
    recalled |= {name: r(size, k, STATE) for name in ("proprio", "proprio_next", "proprio_before")}
    recalled |= {"latent": r(size, k, 4), "code": r(size, k, 0), "mask": torch.ones(size, k, dtype=torch.bool)}
    assert set(recalled) == {f.name for f in fields(Recalled)}
    return Present(**present), Recalled(**recalled)


def with_efn(config=CONFIG) -> Sac:
    return Sac(config, efn(), Ensemble(Values() for _ in range(2)), lambda present, recalled: recalled.mask.any(dim=1))


def test_the_efn_learns_the_residual_that_is_paid():
    """Paid is nearness to a residual that differs by dimension; every episode is one decision."""
    config = replace(CONFIG, learning_rate=1e-2, temperature=0.01, target_entropy=None)
    sac, observation, wanted = with_efn(config), seen(64), torch.tensor([0.3, -0.15])
    replay = None
    for _ in range(200):
        action = sac.act(observation)
        reward = -((action - wanted) / torch.tensor(CONFIG.bound)).square().sum((1, 2))
        rows = Transition(observation, action, reward, observation, torch.ones(64, dtype=torch.bool))
        if replay is None:
            replay = Replay(rows, 200 * 64)
        replay.insert(rows)
        sac.warm_start(replay.sample(64))
    for _ in range(150):
        sac.update(replay.sample(64))
    found = sac.act(observation, deterministic=True)
    torch.testing.assert_close(found, sac.actor.residual(*observation).detach())
    assert ((found - wanted).abs().mean((0, 1)) < 0.25 * wanted.abs()).all()


def test_where_nothing_was_recalled_the_residual_is_exactly_zero():
    sac, (present, recalled) = with_efn(), seen()
    recalled.mask[::2] = False
    action = sac.act((present, recalled))
    assert not action[::2].any() and (action[1::2] != 0).all()


# After a restart


def run(sac: Sac, replay: Replay, updates: int) -> list[float]:
    return [float(sum(sac.update(replay.sample(8)).values())) for _ in range(updates)]


@pytest.mark.parametrize("build, rows", [(lambda c: made(c, n=3), batch(40)), (with_efn, None)], ids=["mlp", "efn"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(build, rows, tmp_path):
    if rows is None:
        torch.manual_seed(1)
        rows = replace(batch(40), observation=seen(40), next_observation=seen(40))
    config = replace(CONFIG, actor_every=2, weight_decay=0.01, clip=1.0)
    sac, replay = build(config), Replay(rows, 40)
    replay.insert(rows)
    sac.xi = 0.7
    run(sac, replay, 3)
    sac.save(tmp_path / "sac.safetensors")
    replay.save(tmp_path / "replay.safetensors")
    losses = run(sac, replay, 5)
    torch.manual_seed(9)
    back, again = build(config), Replay(rows, 40, seed=9)
    back.load(tmp_path / "sac.safetensors")
    again.load(tmp_path / "replay.safetensors")
    assert back.xi == 0.7 and back.updates == 3
    assert run(back, again, 5) == losses
    for name, tensor in sac.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


def test_a_seed_decides_everything():
    states = []
    for seed in (0, 0, 1):
        sac = made(replace(CONFIG, seed=seed))
        for i in range(3):
            sac.update(batch(seed=i))
        states.append([t for name, t in sac.state_dict().items() if name.startswith("actor.")])
    assert same(states[0], states[1]) and not same(states[0], states[2])


def test_a_state_is_a_copy():
    sac = made()
    state = sac.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    sac.update(batch())
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_a_file_that_does_not_fit_is_named_and_changes_nothing(tmp_path):
    path, sac = tmp_path / "sac.safetensors", made()
    sac.save(path)
    with pytest.raises(FileNotFoundError):
        sac.load(tmp_path / "none")
    with pytest.raises(ValueError, match="was made with gamma 0.9, not 0.5"):
        made(replace(CONFIG, gamma=0.5)).load(path)
    other = made(n=3)
    before = other.state_dict()
    with pytest.raises(
        ValueError, match=r"critics.biases.0 is \(2, 1, 16\), not \(3, 1, 16\): build actor and critics"
    ):
        other.load(path)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="sac.safetensors is damaged or of another kind"):
        sac.load(path)


# What is refused


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("gamma", 1.5, "gamma is 1.5; it must be above 0 and at most 1"),
        ("polyak", 0.0, "polyak is 0.0"),
        ("temperature", math.nan, "temperature is nan"),
        ("learning_rate", math.inf, "learning_rate is inf"),
        ("actor_learning_rate", 0.0, "actor_learning_rate is 0.0; it must be above 0"),
        ("subset", 0, "subset is 0; it must be finite and at least 1"),
        ("anchor", -1.0, "anchor is -1.0; it must be finite and at least 0"),
        ("clip", -1.0, "clip is -1.0; it must be finite and at least 0"),
        ("bound", (0.5, math.nan), r"bound is \(0.5, nan\); each dimension of an action needs one"),
        ("bound", (), r"bound is \(\)"),
    ],
)
def test_a_setting_that_cannot_be_is_named(field, value, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reward": np.zeros((8, 1), np.float32)}, r"reward has shape \(8, 1\); the batch needs \(8,\)"),
        ({"done": np.zeros(7, bool)}, r"done has shape \(7,\)"),
        ({"return_to_go": np.zeros((8, 1), np.float32)}, "return_to_go has shape"),
        ({"action": np.zeros((8, H, 3), np.float32)}, "action has 3 dimensions; bound has 2"),
    ],
)
def test_a_batch_that_would_broadcast_is_named(change, words):
    for learn in (made().update, made().warm_start):
        with pytest.raises(ValueError, match=words):
            learn(replace(batch(), **change))


# It learns


def test_it_learns_pendulum_as_well_as_stable_baselines3():
    """Of the way from an untrained policy to Stable-Baselines3's, measured over several seeds by bench/sac.py with the
    same networks, hyperparameters and steps, at least nine tenths; without a single update nothing of it."""
    spec = importlib.util.spec_from_file_location("bench_sac", BENCH / "sac.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    measured = json.loads((BENCH / "results" / "sac.json").read_text())["learning"]
    assert {name: measured[name] for name in bench.LEARNING} == bench.LEARNING
    low, high = (np.mean(measured["returns"][name]) for name in ("untrained", bench.OTHER))
    torch.set_num_threads(1)
    enough = low + 0.9 * (high - low)
    assert bench.evaluate(bench.learn(0, steps=0)) < enough <= bench.evaluate(bench.learn(0))
