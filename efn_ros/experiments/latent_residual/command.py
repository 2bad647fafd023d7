# SPDX-License-Identifier: MIT
"""Train an EFN that changes the latent action tokens, through the frozen decoder of the policy."""

from __future__ import annotations

import argparse

from efn_ros.commands.train import add_training_arguments, training_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run, or continue, a training."""
    from efn_ros.experiments.latent_residual.training import LatentTraining

    try:
        print(f"\ncheckpoint {LatentTraining(training_config(args)).run()}")
    except ValueError as error:
        raise SystemExit(f"efn experiment latent_residual: {error}") from error
    return 0
