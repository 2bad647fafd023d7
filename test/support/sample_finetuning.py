# SPDX-License-Identifier: MIT
"""Fine-tuning at its smallest: a checkpoint, and one deployment whose bank the base has filled."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import torch

from efn_ros.bank import BankReader
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import EfnConfig
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.replay import leaves
from efn_ros.experiments.sac.robot import Robot, bank_directory, fill_bank
from efn_ros.experiments.sac.transitions import ActorInput

H, A = 4, 4
BOUND = (0.6, 0.6, 0.6, 1.0)
DEPLOYMENT, TASK = 20_005, "window-close"  # only its light differs, and window-close is its first task
SIZES = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16, "token_channels": 4}


class InProcess(Executor):
    """An executor that runs each job at once, in this process."""

    def submit(self, function, /, *args, **kwargs):
        """Run a job and return its result as a future."""
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # any executor hands errors over
            future.set_exception(error)
        return future


def checkpoint(directory, latent, sketch, proprio):
    """Write an EFN with random weights and return its directory."""
    torch.manual_seed(0)
    efn = Efn(
        EfnConfig(
            horizon=H, action_size=A, latent=latent, sketch=sketch, bound=BOUND, proprio_mean=(0.0,) * proprio,
            proprio_std=(0.1,) * proprio, motion_std=(0.02,) * proprio, dropout=0.1, **SIZES,
        )
    )  # fmt: skip
    torch.nn.init.normal_(efn.head.weight, std=0.3)
    efn.save_pretrained(directory)
    return str(directory)


def assert_same(one, other) -> None:
    """Compare the arrays of two trees."""
    for name, array in leaves(one).items():
        np.testing.assert_array_equal(array, leaves(other)[name], err_msg=name)


def make_finetuning(directory: Path) -> FinetuneConfig:
    """Return settings of one deployment with one task, whose bank holds two rollouts of the base."""
    name = checkpoint(directory / "supervised", (4, 128), (80, 128), 4)
    config = FinetuneConfig(
        str(directory), name, deployments=1, round_deployments=1, round_episodes=1, tasks=1, bank_rollouts=2,
        bank_sizes=(2,), nearest_steps=3, random_steps=2, validation_deployments=1, validation_episodes=1, episodes=1,
        warm_updates=1, critic_rounds=0, batch_size=4,
    )  # fmt: skip
    for part in ("banks", "base"):
        (directory / part).mkdir()
    fill_bank(config, DEPLOYMENT)
    return config


def run_robot(settings, act, prefix=0.0, scene=1):
    """Run one episode, and return it with the similarity of its steps."""
    robot = Robot(settings, DEPLOYMENT, settings.checkpoint)
    source = BankReader(bank_directory(settings, DEPLOYMENT))
    return robot.run("e", TASK, scene, source, act, prefix), robot.similarity


def zero_residual(inputs: ActorInput) -> np.ndarray:
    """Return a residual of zero."""
    return np.zeros((1, H, A), np.float32)
