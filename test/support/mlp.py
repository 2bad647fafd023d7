# SPDX-License-Identifier: MIT
"""Small actor and critics for soft actor-critic on plain states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efn_ros.efn.actor import LOG_STD_RANGE
from efn_ros.experiments.sac.critics import Critics


class MlpActor(nn.Module):
    """All observations, flattened, through hidden layers with ReLU."""

    def __init__(self, inputs: int, shape: tuple[int, ...], hidden: Sequence[int] = (256, 256)) -> None:
        """Build the layers; shape: (..., A) of an action."""
        super().__init__()
        sizes, self._shape = [inputs, *hidden], shape
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU(inplace=True))]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 2 * math.prod(shape)))

    def forward(self, *observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log_std before tanh, each (B, ..., A)."""
        mean, log_std = self.layers(_flatten(observation)).chunk(2, dim=-1)
        return mean.unflatten(-1, self._shape), log_std.clamp(*LOG_STD_RANGE).unflatten(-1, self._shape)


class MlpCritics(Critics):
    """n MLPs with stacked weights, computed at once: each layer is one batched product."""

    def __init__(self, inputs: int, hidden: Sequence[int] = (256, 256), n: int = 2, layer_norm: bool = False) -> None:
        """Build the layers.

        Args:
            inputs: Entries of observation and action together.
            hidden: Widths of the hidden layers.
            n: Critics.
            layer_norm: Normalise after each hidden layer, without weights.
        """
        super().__init__()
        self.n, self._layer_norm = n, layer_norm
        sizes = list(pairwise([inputs, *hidden, 1]))
        self.weights = nn.ParameterList(torch.empty(n, i, o).uniform_(-1, 1) / math.sqrt(i) for i, o in sizes)
        self.biases = nn.ParameterList(torch.empty(n, 1, o).uniform_(-1, 1) / math.sqrt(i) for i, o in sizes)

    def forward(self, *inputs: Tensor, members: Tensor | None = None) -> Tensor:
        """Return values (n, B), or those of the critics whose indices are given."""
        weights, biases = ([p if members is None else p[members] for p in ps] for ps in (self.weights, self.biases))
        x = _flatten(inputs).expand(len(weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if i:
                x = torch.relu_(F.layer_norm(x, x.shape[-1:]) if self._layer_norm else x)
            x = torch.baddbmm(bias, x, weight)
        return x.squeeze(-1)


def _flatten(inputs: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.flatten(1) for x in inputs], dim=-1)
