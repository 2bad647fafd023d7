# SPDX-License-Identifier: MIT
"""Soft actor-critic at its smallest: actors, critics and decisions whose values can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import torch
from mlp import MlpActor, MlpCritics
from torch import nn

from efn_ros.experiments.sac.config import SacConfig
from efn_ros.experiments.sac.critics import Critics
from efn_ros.experiments.sac.replay import Transition, tree_map
from efn_ros.experiments.sac.sac import Sac

STATE, H, A, WIDTH = 3, 2, 2, 16
CONFIG = SacConfig(bound=(0.5, 0.25), gamma=0.9)


def make_sac(config=CONFIG, n=2, seed=0) -> Sac:
    """Return soft actor-critic with small MLPs of random weights."""
    torch.manual_seed(seed)
    return Sac(config, MlpActor(STATE, (H, A), (WIDTH,)), MlpCritics(STATE + H * A, (WIDTH, WIDTH), n))


def batch(size=8, seed=0) -> Transition:
    """Return random decisions."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal((size, *shape), dtype=np.float32)  # noqa: E731
    return Transition((draw(STATE),), draw(H, A), draw(), (draw(STATE),), rng.random(size) < 0.3)


def tensors(rows: Transition) -> Transition:
    """Return decisions as tensors."""
    return tree_map(lambda _, x: torch.from_numpy(x), rows)


def weights(module: nn.Module) -> list[torch.Tensor]:
    """Return copies of all parameters."""
    return [p.detach().clone() for p in module.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Return whether two lists of tensors are equal."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class ConstantActor(nn.Module):
    """An actor whose output does not depend on the state."""

    def __init__(self, mean=0.0, log_std=-1.0, shape=(1,)):
        super().__init__()
        self.mean, self.log_std = (nn.Parameter(torch.full(shape, float(x))) for x in (mean, log_std))

    def forward(self, state):
        """Return mean and log_std."""
        return (x.expand(len(state), *x.shape) for x in (self.mean, self.log_std))


class TableCritics(Critics):
    """Critics of whole-numbered states: values (n, states), and one slope for all actions."""

    def __init__(self, values, slope=0.0):
        super().__init__()
        self.values, self.slope, self.n = nn.Parameter(torch.tensor(values)), slope, len(values)

    def forward(self, state, action, members=None):
        """Return values (n, B)."""
        values = self.values if members is None else self.values[members]
        return values[:, state[:, 0].long()] + self.slope * action.flatten(1).sum(1)


class Ensemble(Critics):
    """Any critics, as an ensemble."""

    def __init__(self, critics):
        super().__init__()
        self.members = nn.ModuleList(critics)
        self.n = len(self.members)

    def forward(self, *inputs, members=None):
        """Return values (n, B)."""
        chosen = range(self.n) if members is None else members.tolist()
        return torch.stack([self.members[i](*inputs) for i in chosen])


def rows_of(states, rewards, following, done, **more) -> Transition:
    """Return decisions of `TableCritics`, whose actions are zero."""
    column = lambda x: torch.tensor(x, dtype=torch.float32)  # noqa: E731
    actions = torch.zeros(len(states), 1)
    return Transition(
        (column(states)[:, None],), actions, column(rewards), (column(following)[:, None],), torch.tensor(done), **more
    )


def entropy_of_squashed(std: float) -> float:
    """Entropy of tanh(N(0, std^2)), by quadrature."""
    u = np.linspace(-12 * std, 12 * std, 200_001)
    p = np.exp(-0.5 * (u / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return float(np.trapezoid(p * (-np.log(np.maximum(p, 1e-300)) + np.log(1 - np.tanh(u) ** 2)), u))
