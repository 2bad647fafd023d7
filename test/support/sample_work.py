# SPDX-License-Identifier: MIT
"""Rollouts in which a residual was added to the base action, as a robot's bank holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sample_rollouts import PROJECTION, make_rollout

from efn_ros.bank import BankWriter
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import EfnConfig
from efn_ros.online.config import LearnConfig
from efn_ros.retrieval import RetrievalConfig
from efn_ros.types import Mode, Outcome

H, A, P = 4, 3, 4
BOUND = (0.5, 0.5, 0.5)
PATTERN = np.array([0.25, -0.15, 0.1], np.float32)  # what corrections that succeeded have in common
RECALL = RetrievalConfig(k=4, random_steps=4)
CONFIG = LearnConfig(
    held_out_fraction=0.3,
    min_new_rollouts=5,
    min_held_out_successes=4,
    epochs=12,
    batch_size=32,
    learning_rate=3e-3,
    max_change=1.0,
)
CONFIG_OF_EFN = EfnConfig(
    horizon=H, action_size=A, latent=(4, 10), sketch=(6, 16), bound=BOUND, proprio_mean=(0.0,) * P,
    proprio_std=(1.0,) * P, motion_std=(1.0,) * P, deployment_size=3, width=32, heads=4, layers=1, feedforward=64,
)  # fmt: skip


def checkpoint(directory: Path, **changes) -> Path:
    """Write the checkpoint of an untrained network, whose residual is zero."""
    torch.manual_seed(0)
    Efn(replace(CONFIG_OF_EFN, **changes)).save_pretrained(directory)
    return directory


def rollout(index: int, added, outcome=Outcome.SUCCESS, decisions: int = 6, mode=Mode.CORRECTED):
    """Return a rollout whose executed action is the base action plus `added`, (A,) or (decisions, A)."""
    made = make_rollout(f"rollout-{index}", decisions, outcome=outcome, image=8, cameras=("left",))
    steps = []
    for step, residual in zip(made.steps, np.broadcast_to(added, (decisions, A)), strict=True):
        correction = step.correction
        residual = np.broadcast_to(residual, correction.base.shape).astype(np.float32)
        correction = replace(correction, residual=residual, corrected=correction.base + residual, mode=mode)
        steps.append(replace(step, correction=correction))
    return replace(made, steps=tuple(steps))


def store(bank: Path, rollouts) -> Path:
    """Add rollouts to a bank; return its directory."""
    with BankWriter(bank, projection=PROJECTION) as writer:
        for one in rollouts:
            writer.append(one)
    return bank


def patterned(count: int = 30, first: int = 0):
    """Yield corrected successes that share a pattern, and failures with another residual."""
    for index in range(first, first + count):
        if index % 5 == 3:
            yield rollout(index, -2 * PATTERN, Outcome.FAILURE)
        else:
            yield rollout(index, PATTERN)


def bank_of(tmp_path: Path, rollouts, name: str = "bank") -> Path:
    """Store rollouts in a new bank; return its directory."""
    return store(tmp_path / name, rollouts)


def random_efn(directory: Path) -> Efn:
    """Return a network with random weights in its head, so that its residual is not zero."""
    efn = Efn.from_pretrained(directory)
    torch.manual_seed(1)
    torch.nn.init.normal_(efn.head.weight, std=0.3)
    return efn
