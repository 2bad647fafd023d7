# SPDX-License-Identifier: MIT
"""Conversion of recorded demonstrations to rollouts: the frozen policy is evaluated on every frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from efn_ros.bank.convert.frames import Frames
from efn_ros.features.images import resize_crop
from efn_ros.types import Correction, Mode, Observation, Outcome, PolicyStep, Rollout, RolloutStep, StepContext

SAME_ACTION = 1e-5  # an action that differs less from the base is no correction


def as_rollout(
    frames: Frames,
    infer: Callable[[Observation], PolicyStep],
    *,
    episode_id: str,
    robot: str,
    cameras: Mapping[str, str],
    image_size: int,
    task: str = "",
    outcome: Outcome = Outcome.UNKNOWN,
    start_ns: int = 0,
) -> Rollout:
    """Make a decision of each frame; an action that differs from the base action is a correction of it.

    The executed chunk of a decision is that of the dataset, or else its actions from the frame on, the last one
    repeated.

    Args:
        frames: An episode of a dataset.
        infer: The frozen policy.
        episode_id: Of the rollout.
        robot: Name of the robot.
        cameras: Camera of the policy to camera of the dataset.
        image_size: That the policy expects, pixels.
        task: Name of the task; empty: the task of the dataset.
        outcome: Of the episode, if the dataset has none.
        start_ns: Stamp of the first frame, nanoseconds.

    Raises:
        ValueError: The dataset has no such camera, or an action has another size than the policy's.
    """
    missing = [name for name in cameras.values() if name not in frames.images]
    if missing:
        raise ValueError(
            f"the dataset has no camera {missing[0]!r}, only {', '.join(frames.images)}; map the policy's cameras"
        )
    if frames.success is not None:
        outcome = Outcome.SUCCESS if frames.success else Outcome.FAILURE
    task, steps = task or frames.task, []
    for t in range(len(frames.state)):
        context = StepContext(episode_id, t, start_ns + round(1e9 * t / frames.fps), task, frames.task)
        images = {name: resize_crop(frames.images[source][t], image_size) for name, source in cameras.items()}
        observation = Observation(context, images, frames.state[t])
        step = infer(observation)
        horizon, size = step.base.shape
        if frames.executed is not None and frames.executed.shape[1:] == (horizon, size):
            executed = frames.executed[t]
        elif frames.action.shape[1] == size:
            executed = frames.action[np.minimum(np.arange(t, t + horizon), len(frames.action) - 1)]
        else:
            raise ValueError(f"an action of the dataset has {frames.action.shape[1]} entries; one of the policy {size}")
        residual = executed - step.base
        corrected = np.abs(residual).max() > SAME_ACTION
        mode = Mode.CORRECTED if corrected else Mode.BASE
        reason = "" if corrected else "equal to the base action"
        correction = Correction(context, step.base, residual * np.float32(corrected), executed, 0.0, mode, reason)
        steps.append(RolloutStep(observation, step, correction))
    policy = steps[0].policy_step.policy
    return Rollout(episode_id, robot, task, frames.task, 0, outcome, len(steps), start_ns, policy, tuple(steps))
