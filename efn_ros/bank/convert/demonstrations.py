"""Rollouts out of what somebody else recorded: the frozen policy looks again, and what it says is kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from efn_ros.bank.convert.lerobot import Frames
from efn_ros.features.images import resize_crop
from efn_ros.types import Correction, Mode, Observation, Outcome, PolicyStep, Rollout, RolloutStep, StepContext

SAME = 1e-5  # difference of an action from the base's below which it is the base's


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
    """A decision for each frame; whatever was done otherwise than by the base is a correction of it.

    infer: the frozen policy. cameras: of the policy -> of the dataset. outcome: where the dataset does not say. The
    chunk of a decision is the one that the dataset holds, or else the actions from its frame on, the last one repeated.
    Raises ValueError, naming it, for a camera that the dataset has not, and for an action of another size than the
    policy's; and as `infer` does.
    """
    missing = [name for name in cameras.values() if name not in frames.images]
    if missing:
        raise ValueError(
            f"the dataset has no camera {missing[0]!r}; there are {', '.join(frames.images)}: say which is which"
        )
    if frames.success is not None:
        outcome = Outcome.SUCCESS if frames.success else Outcome.FAILURE
    steps = []
    for t in range(len(frames.state)):
        context = StepContext(episode_id, t, start_ns + round(1e9 * t / frames.fps), task or frames.task, frames.task)
        images = {own: resize_crop(frames.images[theirs][t], image_size) for own, theirs in cameras.items()}
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
        corrected = np.abs(residual).max() > SAME
        mode = Mode.CORRECTED if corrected else Mode.BASE
        reason = "" if corrected else "as the base would have done"
        correction = Correction(context, step.base, residual * np.float32(corrected), executed, 0.0, mode, reason)
        steps.append(RolloutStep(observation, step, correction))
    policy = steps[0].policy_step.policy
    name = task or frames.task
    return Rollout(episode_id, robot, name, frames.task, 0, outcome, len(steps), start_ns, policy, tuple(steps))
