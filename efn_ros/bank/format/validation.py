"""What a rollout must be before it is stored: complete, finite, and of the sizes of its bank."""

from __future__ import annotations

import numpy as np

from efn_ros.types import Correction, Rollout


def sizes_of(rollout: Rollout) -> dict[str, list[int]]:
    """The sizes that all rollouts of a bank share, by name; of the first decision."""
    step = rollout.steps[0].policy_step
    return {
        "base": list(np.shape(step.base)),
        "key": list(np.shape(step.key.q)),
        "sketch": list(np.shape(step.sketch.q)),
        "latent": list(np.shape(step.latent)),
        "proprio": list(np.shape(step.proprio)),
        "instruction_embedding": list(np.shape(step.instruction_embedding)),
    }


def check(rollout: Rollout, sizes: dict[str, list[int]]) -> None:
    """Raises ValueError, naming field and value, unless the rollout is complete, finite and of these sizes."""

    def refuse(field: str, value: object, remedy: str) -> None:
        raise ValueError(f"rollout {rollout.episode_id!r}: {field} is {value}; {remedy}")

    for name in ("episode_id", "robot", "task", "instruction", "policy"):
        try:
            getattr(rollout, name).encode()
        except UnicodeEncodeError:
            refuse(name, ascii(getattr(rollout, name)), "it must be text that UTF-8 can write")
    if not rollout.instruction.strip():
        refuse("instruction", repr(rollout.instruction), "a rollout is recalled by its instruction, give it one")
    if rollout.length < 1:
        refuse("length", rollout.length, "it must be at least one control step")
    cameras = sorted(rollout.steps[0].observation.images)
    previous = -1
    for row, item in enumerate(rollout.steps):
        observation, policy_step, correction = item.observation, item.policy_step, item.correction
        where = f"steps[{row}]."
        for name, part in (("observation", observation), ("policy_step", policy_step), ("correction", correction)):
            if part.context.episode_id != rollout.episode_id:
                refuse(f"{where}{name}.context.episode_id", repr(part.context.episode_id), "it must be the rollout's")
            if part.context.step != policy_step.context.step:
                refuse(f"{where}{name}.context.step", part.context.step, f"the others' is {policy_step.context.step}")
        if policy_step.context.step <= previous:
            refuse(f"{where}context.step", policy_step.context.step, f"it must be above {previous}, the one before")
        previous = policy_step.context.step
        for name, array, size in (
            ("base", policy_step.base, "base"),
            ("correction.corrected", correction.corrected, "base"),
            ("correction.residual", correction.residual, "base"),
            ("correction.proposed", _proposed(correction), "base"),
            ("key.q", policy_step.key.q, "key"),
            ("sketch.q", policy_step.sketch.q, "sketch"),
            ("latent", policy_step.latent, "latent"),
            ("proprio", policy_step.proprio, "proprio"),
            ("instruction_embedding", policy_step.instruction_embedding, "instruction_embedding"),
        ):
            if list(np.shape(array)) != sizes[size]:
                refuse(f"the shape of {where}{name}", np.shape(array), f"the bank holds {tuple(sizes[size])}")
        for name, quantised in (("key", policy_step.key), ("sketch", policy_step.sketch)):
            if quantised.q.dtype != np.int8:
                refuse(f"the dtype of {where}{name}.q", quantised.q.dtype, "it must be int8")
            if np.shape(quantised.scale) != quantised.q.shape[:-1]:
                refuse(f"the shape of {where}{name}.scale", np.shape(quantised.scale), "it must be one for each row")
        for name, array in (
            ("base", policy_step.base),
            ("correction.corrected", correction.corrected),
            ("correction.residual", correction.residual),
            ("correction.proposed", _proposed(correction)),
            ("key.scale", policy_step.key.scale),
            ("sketch.scale", policy_step.sketch.scale),
            ("latent", policy_step.latent),
            ("proprio", policy_step.proprio),
            ("instruction_embedding", policy_step.instruction_embedding),
            ("correction.confidence", correction.confidence),
        ):
            array = np.asarray(array)
            finite = np.isfinite(array)
            if not finite.all():
                index = tuple(int(i) for i in np.argwhere(~finite)[0])
                refuse(f"{where}{name}{list(index) if index else ''}", array[index], "it must be finite")
        if sorted(observation.images) != cameras:
            refuse(f"{where}observation.images", sorted(observation.images), f"the first step has {cameras}")
        for camera, image in observation.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                shown = f"{image.dtype} {image.shape}"
                refuse(f"{where}observation.images[{camera!r}]", shown, "it must be uint8 (height, width, 3)")


def _proposed(correction: Correction) -> np.ndarray:
    """(H, A), zero where nothing was proposed."""
    return np.zeros_like(correction.residual) if correction.proposed is None else correction.proposed
