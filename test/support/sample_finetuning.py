"""Runs of fine-tuning that are tiny: a checkpoint, and one deployment whose bank the base has filled."""

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
from efn_ros.experiments.sac.robot import Robot, bank_of, fill_bank
from efn_ros.experiments.sac.transitions import ActorInput

H, A = 4, 4
BOUND = (0.6, 0.6, 0.6, 1.0)
DEPLOYMENT, TASK = 20_005, "window-close"  # its light alone differs, and window-close is its first task
SIZES = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16, "token_channels": 4}


class Here(Executor):
    """Does at once, in this process, what it is given."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # handed over, as any executor does
            future.set_exception(error)
        return future


def checkpoint(directory, latent, sketch, proprio):
    """An EFN that proposes something."""
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


def same(one, other) -> None:
    for name, array in leaves(one).items():
        np.testing.assert_array_equal(array, leaves(other)[name], err_msg=name)


def filled(directory: Path) -> FinetuneConfig:
    """Settings of one deployment of one task, in which the base has filled the bank with two rollouts."""
    name = checkpoint(directory / "supervised", (4, 128), (80, 128), 4)
    config = FinetuneConfig(
        str(directory), name, deployments=1, visits=1, visit_episodes=1, tasks=1, bank_rollouts=2, bank_sizes=(2,),
        nearest_steps=3, random_steps=2, measured=1, measured_episodes=1, episodes=1, warm_updates=1, critic_rounds=0,
        batch_size=4,
    )  # fmt: skip
    for part in ("banks", "base"):
        (directory / part).mkdir()
    fill_bank(config, DEPLOYMENT)
    return config


def run(settings, act, prefix=0.0, scene=1):
    """One episode of the robot, and its similarity of steps."""
    robot = Robot(settings, DEPLOYMENT, settings.checkpoint)
    memory = BankReader(bank_of(settings, DEPLOYMENT))
    return robot.run("e", TASK, scene, memory, act, prefix), robot.similarity


def nothing(taken: ActorInput) -> np.ndarray:
    """No residual."""
    return np.zeros((1, H, A), np.float32)
