# SPDX-License-Identifier: MIT
"""Small rollouts to fill banks with, and a process that fills one until it is killed."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from efn_ros.bank import BankWriter
from efn_ros.features.sketches import Projection
from efn_ros.types import Correction, Mode, Observation, Outcome, PolicyStep, Rollout, RolloutStep, StepContext

PROJECTION = Projection(24, 16, seed=3)
INSTRUCTION = np.eye(8, dtype=np.float32)[0]


def make_step(
    episode_id="e0", step=0, *, rng=None, projection=PROJECTION, tokens=6, horizon=4, action=3, proprio=4,
    latent=(4, 10), image=8, cameras=("left", "right"), instruction_embedding=INSTRUCTION, seed=0, record=True,
):  # fmt: skip
    """Return a random decision without zeros."""
    rng = rng or np.random.default_rng(step)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    context = StepContext(episode_id, step, 1_000 + step * 100, "reach", "reach the goal", seed, record=record)
    visual, body, base, residual = draw(tokens, projection.input_size), draw(proprio), draw(horizon, action), draw(1)
    images = {camera: rng.integers(0, 256, (image, image, 3), np.uint8) for camera in cameras}
    return RolloutStep(
        Observation(context, images, body),
        PolicyStep(
            context, base, projection.describe(visual), projection.sketch(visual), draw(*latent),
            instruction_embedding, body,
        ),
        Correction(context, base, base * 0 + residual, base + residual, 0.5, Mode.CORRECTED),
    )  # fmt: skip


def make_rollout(episode_id="e0", decisions=3, *, outcome=Outcome.SUCCESS, length=None, seed=None, **sizes):
    """Return a rollout of random decisions, the same for the same episode_id."""
    rng = np.random.default_rng(list(episode_id.encode()) if seed is None else seed)
    return Rollout(
        episode_id, "arm", "reach", "reach the goal", 7, outcome, decisions * 4 if length is None else length,
        1_000, "policy-1", tuple(make_step(episode_id, i, rng=rng, **sizes) for i in range(decisions)),
    )  # fmt: skip


def at_5_hz(rollout):
    """Return the rollout with stamps of five decisions a second."""
    steps = []
    for t, step in enumerate(rollout.steps):
        context = dataclasses.replace(step.observation.context, stamp_ns=t * 200_000_000)
        parts = {name: dataclasses.replace(part, context=context) for name, part in vars(step).items()}
        steps.append(dataclasses.replace(step, **parts))
    return dataclasses.replace(rollout, steps=tuple(steps))


def append_until_killed(directory: str, prefix: str) -> None:
    """Append rollouts without end; print the identifier of each once it is acknowledged."""
    with BankWriter(directory, projection=PROJECTION) as writer:
        for index in range(sys.maxsize):
            rollout = make_rollout(f"{prefix}-{index}", decisions=2, cameras=("left",))
            print(f"begun {rollout.episode_id}", flush=True)
            writer.append(rollout)
            print(f"stored {rollout.episode_id}", flush=True)


if __name__ == "__main__":
    append_until_killed(*sys.argv[1:])
