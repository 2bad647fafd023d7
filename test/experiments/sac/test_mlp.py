# SPDX-License-Identifier: MIT
"""The MLP critics that other tests and the benchmark use, against single networks."""

import pytest
import torch
from mlp import MlpCritics
from sample_sac import STATE, WIDTH, A, H, batch, tensors
from torch import nn


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [None, [2, 0]])
def test_batched_critics_equal_single_ones(layer_norm, members):
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
