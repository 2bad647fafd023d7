# SPDX-License-Identifier: MIT
"""Small random networks and their inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from sample_recalls import stack_experiences

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled
from efn_ros.efn.config import EfnConfig
from efn_ros.types import Experience, Experiences, Outcome, PolicyStep, Quantised, StepContext

H, A, P, L, DZ, T, D, C = 3, 2, 4, 2, 8, 5, 6, 3
CONFIG = EfnConfig(
    horizon=H, action_size=A, latent=(L, DZ), sketch=(T, D), bound=(0.5, 0.25), proprio_mean=(0.1,) * P,
    proprio_std=(0.2,) * P, motion_std=(0.05,) * P, deployment_size=3, code_size=C, width=32, heads=4, layers=2,
    feedforward=64,
)  # fmt: skip
KEY = Quantised(np.zeros(4, np.int8), np.float32(1))


def random_efn() -> Efn:
    """Return a network with random weights in its head, so that its residual is not zero."""
    torch.manual_seed(0)
    made = Efn(CONFIG).eval()
    torch.nn.init.normal_(made.head.weight)
    torch.nn.init.normal_(made.code_basis)
    return made


def trusting_efn(efn: Efn) -> Efn:
    """Return the same network with a random estimate of trust."""
    torch.manual_seed(1)
    made = Efn(replace(CONFIG, recent_steps=3)).eval()
    made.load_state_dict(efn.state_dict(), strict=False)
    return made


def present(batch=5) -> Present:
    """Return random present steps."""
    return Present(torch.randn(batch, L, DZ), torch.randn(batch, T, D), torch.randn(batch, P), torch.randn(batch, H, A))


def recalled(batch=5, k=6) -> Recalled:
    """Return random recalled steps."""
    r = torch.randn
    return Recalled(
        executed=r(batch, k, H, A), base=r(batch, k, H, A), proprio=r(batch, k, P), proprio_next=r(batch, k, P),
        executed_before=r(batch, k, H, A), proprio_before=r(batch, k, P),
        latent=r(batch, k, DZ), code=r(batch, k, C), success=torch.randint(2, (batch, k)).float(),
        similarity=torch.rand(batch, k), mask=torch.ones((batch, k), dtype=torch.bool),
    )  # fmt: skip


def each(memory: Recalled, change) -> Recalled:
    """Return recalled steps with a function applied to each tensor."""
    return replace(memory, **{name: change(value) for name, value in vars(memory).items()})


def step() -> PolicyStep:
    """Return a random policy step."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    context = StepContext("e0", 0, 0, "reach", "reach the goal")
    sketch = Quantised(rng.integers(-9, 9, (T, D), dtype=np.int8), np.full(T, 0.1, np.float32))
    return PolicyStep(context, draw(H, A), KEY, sketch, draw(L, DZ), draw(4), draw(P))


def experiences(count: int) -> Experiences:
    """Return random recalled steps, every other one of a success."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    steps = [
        Experience(
            f"r{i}", i, "reach the goal", Outcome.SUCCESS if i % 2 else Outcome.FAILURE, 20, draw(H, A), draw(H, A),
            draw(P), draw(P), draw(H, A), draw(P), draw(DZ), 0.5, 0.5, 0.1,
            draw(C),
        )
        for i in range(count)
    ]  # fmt: skip
    return stack_experiences(*steps)
