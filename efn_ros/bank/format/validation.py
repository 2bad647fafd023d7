# SPDX-License-Identifier: MIT
"""Validation of a rollout before it is stored: complete, finite, and of the sizes of its bank."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

import numpy as np

from efn_ros.features.sketches import Projection
from efn_ros.types import Correction, Rollout, RolloutStep

# Arrays whose shapes the bank fixes, and the name of each shape in its sizes.
SIZES = {
    "base": "base",
    "correction.corrected": "base",
    "correction.residual": "base",
    "correction.proposed": "base",
    "key.q": "key",
    "sketch.q": "sketch",
    "latent": "latent",
    "proprio": "proprio",
    "instruction_embedding": "instruction_embedding",
}


def sizes_of(rollout: Rollout) -> dict[str, list[int]]:
    """Return the shapes that all rollouts of a bank share, by name, of the first decision."""
    step = rollout.steps[0].policy_step
    return {
        "base": list(np.shape(step.base)),
        "key": list(np.shape(step.key.q)),
        "sketch": list(np.shape(step.sketch.q)),
        "latent": list(np.shape(step.latent)),
        "proprio": list(np.shape(step.proprio)),
        "instruction_embedding": list(np.shape(step.instruction_embedding)),
    }


def proposal_or_zero(correction: Correction) -> np.ndarray:
    """Return the residual that memory proposed, (H, A); zero if it proposed none."""
    return np.zeros_like(correction.residual) if correction.proposed is None else correction.proposed


def check_rollout(rollout: Rollout, sizes: dict[str, list[int]], projection: Projection) -> None:
    """Check that a rollout with at least one step is complete, finite, and fits a bank.

    Args:
        rollout: To be stored.
        sizes: Shapes that all rollouts of the bank share, see `sizes_of`.
        projection: Of the bank.

    Raises:
        ValueError: It does not; the message names field and value.
    """
    refuse, width = partial(_refuse, rollout), [projection.output_size]
    if sizes["key"] != width or sizes["sketch"][-1:] != width:
        raise ValueError(
            f"rollout {rollout.episode_id!r}: key and sketch have shapes {tuple(sizes['key'])} and "
            f"{tuple(sizes['sketch'])}; projection {projection.identity} gives rows of {width[0]}"
        )
    for name in ("episode_id", "robot", "task", "instruction", "policy"):
        try:
            getattr(rollout, name).encode()
        except UnicodeEncodeError:
            refuse(name, ascii(getattr(rollout, name)), "it must be text that UTF-8 can encode")
    if not rollout.instruction.strip():
        refuse("instruction", repr(rollout.instruction), "a rollout is found by its instruction, give it one")
    if rollout.length < 1:
        refuse("length", rollout.length, "it must be at least one control step")
    previous = -1
    for row, step in enumerate(rollout.steps):
        _check_step(rollout, row, step, previous, sizes, {"policy": rollout.policy, "projection": projection.identity})
        previous = step.policy_step.context.step


def _check_step(
    rollout: Rollout, row: int, step: RolloutStep, previous: int, sizes: dict[str, list[int]], origin: dict[str, str]
) -> None:
    """Check one decision; `previous` is the index of the decision before it, `origin` its policy and projection."""
    refuse = partial(_refuse, rollout)
    policy_step, correction, where = step.policy_step, step.correction, f"steps[{row}]."
    index = policy_step.context.step
    for name, part in vars(step).items():
        if part.context.episode_id != rollout.episode_id:
            refuse(f"{where}{name}.context.episode_id", repr(part.context.episode_id), "it must be the rollout's")
        if part.context.step != index:
            refuse(f"{where}{name}.context.step", part.context.step, f"the others' is {index}")
    if index <= previous:
        refuse(f"{where}context.step", index, f"it must be above {previous}, the one before")

    arrays = {
        "base": policy_step.base,
        "correction.corrected": correction.corrected,
        "correction.residual": correction.residual,
        "correction.proposed": proposal_or_zero(correction),
        "key.q": policy_step.key.q,
        "key.scale": policy_step.key.scale,
        "sketch.q": policy_step.sketch.q,
        "sketch.scale": policy_step.sketch.scale,
        "latent": policy_step.latent,
        "proprio": policy_step.proprio,
        "instruction_embedding": policy_step.instruction_embedding,
        "correction.confidence": correction.confidence,
    }
    for name, size in SIZES.items():
        if list(np.shape(arrays[name])) != sizes[size]:
            refuse(f"the shape of {where}{name}", np.shape(arrays[name]), f"the bank holds {tuple(sizes[size])}")
    for name, quantised in (("key", policy_step.key), ("sketch", policy_step.sketch)):
        if quantised.q.dtype != np.int8:
            refuse(f"the dtype of {where}{name}.q", quantised.q.dtype, "it must be int8")
        if np.shape(quantised.scale) != quantised.q.shape[:-1]:
            refuse(f"the shape of {where}{name}.scale", np.shape(quantised.scale), "it must be one for each row")
    for name, values in arrays.items():
        array = np.asarray(values)
        finite = np.isfinite(array)
        if not finite.all():
            at = tuple(int(i) for i in np.argwhere(~finite)[0])
            refuse(f"{where}{name}{list(at) if at else ''}", array[at], "it must be finite")

    images, cameras = step.observation.images, sorted(rollout.steps[0].observation.images)
    if sorted(images) != cameras:
        refuse(f"{where}observation.images", sorted(images), f"the first step has {cameras}")
    for camera, image in images.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            shown = f"{image.dtype} {image.shape}"
            refuse(f"{where}observation.images[{camera!r}]", shown, "it must be uint8 (height, width, 3)")
    for name, expected in origin.items():
        value = getattr(policy_step, name)
        if value not in ("", expected):
            refuse(f"{where}{name}", repr(value), f"it must be {expected!r}")


def _refuse(rollout: Rollout, field: str, value: object, remedy: str) -> NoReturn:
    raise ValueError(f"rollout {rollout.episode_id!r}: {field} is {value}; {remedy}")
