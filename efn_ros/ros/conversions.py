# SPDX-License-Identifier: MIT
"""Messages of this package to types and back."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time

import efn_ros.msg as msg
from efn_ros import types
from efn_ros.ros.fields import from_field, from_time, to_field, to_time
from efn_ros.ros.images import from_rgb, to_rgb
from efn_ros.srv import RetrieveExperience

_CONTEXT = [f.name for f in fields(types.StepContext) if f.name != "stamp_ns"]  # equal in StepHeader
_COLUMNS = [f.name for f in fields(types.Experiences) if f.name not in ("rollout_id", "instruction")]  # of numbers


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def context_to_msg(context: types.StepContext) -> msg.StepHeader:
    """Return the header of a decision."""
    message = msg.StepHeader(**{name: getattr(context, name) for name in _CONTEXT})
    message.header.stamp = to_time(context.stamp_ns)
    return message


def context_from_msg(message: msg.StepHeader) -> types.StepContext:
    """Return the context of a decision."""
    stamp_ns = from_time(message.header.stamp)
    return types.StepContext(stamp_ns=stamp_ns, **{name: getattr(message, name) for name in _CONTEXT})


def chunk_to_msg(chunk: np.ndarray) -> msg.ActionChunk:
    """Return a message of an action chunk (H, A)."""
    horizon, action_size = chunk.shape
    return msg.ActionChunk(
        horizon=horizon, action_size=action_size, data=to_field(chunk.astype(np.float32, copy=False))
    )


def chunk_from_msg(message: msg.ActionChunk) -> np.ndarray:
    """Return an action chunk, float32 (H, A).

    Raises:
        ValueError: The data have another length.
    """
    return from_field(message.data, message.horizon, message.action_size)


def rows_to_msg(rows: types.Quantised) -> msg.QuantisedRows:
    """Return a message of one row for a vector (d,), of T rows for a matrix (T, d)."""
    q = np.atleast_2d(rows.q)
    scale = np.atleast_1d(rows.scale).astype(np.float32, copy=False)
    return msg.QuantisedRows(rows=q.shape[0], width=q.shape[1], data=to_field(q), scale=to_field(scale))


def rows_from_msg(message: msg.QuantisedRows) -> types.Quantised:
    """Return the rows (T, d).

    Raises:
        ValueError: The data have another length.
    """
    return types.Quantised(
        from_field(message.data, message.rows, message.width), from_field(message.scale, message.rows)
    )


def row_from_msg(message: msg.QuantisedRows) -> types.Quantised:
    """Return the only row (d,).

    Raises:
        ValueError: The message holds another number of rows, or the data have another length.
    """
    if message.rows != 1:
        raise ValueError(f"a key holds {message.rows} rows; it must be one")
    rows = rows_from_msg(message)
    return types.Quantised(rows.q[0], rows.scale[0])


def observation_to_msg(observation: types.Observation, created_ns: int) -> msg.ObservationStamped:
    """Return a message of an observation; created_ns: when the observation was made."""
    context = context_to_msg(observation.context)
    return msg.ObservationStamped(
        context=context,
        cameras=list(observation.images),
        images=[from_rgb(image, context.header) for image in observation.images.values()],
        proprio=to_field(observation.proprio.astype(np.float32, copy=False)),
        created=to_time(created_ns),
    )


def observation_from_msg(message: msg.ObservationStamped) -> types.Observation:
    """Return an observation.

    Raises:
        ValueError: The message contradicts itself, or an image cannot be read.
    """
    images = {name: to_rgb(image) for name, image in zip(message.cameras, message.images, strict=True)}
    return types.Observation(context_from_msg(message.context), images, from_field(message.proprio))


def policy_step_to_msg(
    step: types.PolicyStep, received_ns: int, created_ns: int, observed: Time | None = None
) -> msg.PolicyStepStamped:
    """Return a message of a policy step.

    Args:
        step: The step.
        received_ns: When its observation was received.
        created_ns: When the step was made.
        observed: When its observation was made.
    """
    return msg.PolicyStepStamped(
        context=context_to_msg(step.context),
        base=chunk_to_msg(step.base),
        key=rows_to_msg(step.key),
        sketch=rows_to_msg(step.sketch),
        latent_tokens=len(step.latent),
        latent=to_field(step.latent),
        instruction_embedding=to_field(step.instruction_embedding),
        proprio=to_field(step.proprio),
        policy=step.policy,
        projection=step.projection,
        observed=observed or Time(),
        received=to_time(received_ns),
        created=to_time(created_ns),
    )


def policy_step_from_msg(message: msg.PolicyStepStamped) -> types.PolicyStep:
    """Return a policy step.

    Raises:
        ValueError: The message contradicts itself.
    """
    base, sketch = chunk_from_msg(message.base), rows_from_msg(message.sketch)
    return types.PolicyStep(base=base, sketch=sketch, **_query_fields(message))


def query_to_request(step: msg.PolicyStepStamped) -> RetrieveExperience.Request:
    """Return the request of a policy step, whose fields are passed on unread."""
    request = RetrieveExperience.Request
    return request(**{name: getattr(step, name) for name in request.get_fields_and_field_types()})


def query_from_request(request: RetrieveExperience.Request) -> types.RetrievalQuery:
    """Return the query of a request.

    Raises:
        ValueError: The request contradicts itself.
    """
    return types.RetrievalQuery(**_query_fields(request))


def _query_fields(message: msg.PolicyStepStamped | RetrieveExperience.Request) -> dict[str, Any]:
    return {
        "context": context_from_msg(message.context),
        "key": row_from_msg(message.key),
        "latent": from_field(message.latent, message.latent_tokens, -1),
        "instruction_embedding": from_field(message.instruction_embedding),
        "proprio": from_field(message.proprio),
        "policy": message.policy,
        "projection": message.projection,
    }


def experiences_to_msg(steps: types.Experiences) -> msg.ExperienceArray:
    """Return a message of recalled steps."""
    return msg.ExperienceArray(
        rollout_id=list(steps.rollout_id),
        instruction=list(steps.instruction),
        horizon=steps.executed.shape[1],
        action_size=steps.executed.shape[2],
        **{name: to_field(getattr(steps, name)) for name in _COLUMNS},
    )


def experiences_from_msg(message: msg.ExperienceArray) -> types.Experiences:
    """Return recalled steps.

    Raises:
        ValueError: A column holds another number of steps.
    """
    count, columns = len(message.rollout_id), {name: from_field(getattr(message, name)) for name in _COLUMNS}
    if not count and any(column.size for column in columns.values()):
        raise ValueError("columns of recalled steps hold numbers, but rollout_id names no step")
    for name in ("executed", "base", "executed_before"):
        columns[name] = from_field(getattr(message, name), count, message.horizon, message.action_size)
    for name in ("proprio", "proprio_next", "proprio_before", "latent", "code"):
        columns[name] = from_field(getattr(message, name), count, -1) if count else columns[name].reshape(0, 0)
    return types.Experiences(tuple(message.rollout_id), instruction=tuple(message.instruction), **columns)


def recall_to_response(recall: types.Recall, response: RetrieveExperience.Response) -> RetrieveExperience.Response:
    """Fill a response with a recall, and return it."""
    response.success = recall.selected >= 0
    response.reason = recall.reason
    response.steps = experiences_to_msg(recall.steps)
    response.selected = recall.selected
    response.codes = recall.codes
    if recall.sketch is not None:
        response.sketch = rows_to_msg(recall.sketch)
    if recall.successor is not None:
        response.successor = rows_to_msg(recall.successor)
    response.confidence = recall.confidence
    response.success_probability = _nan_for_none(recall.success_probability)
    response.candidates = recall.candidates
    response.revision = recall.revision
    return response


def recall_from_response(response: RetrieveExperience.Response) -> types.Recall:
    """Return the recall of a response.

    Raises:
        ValueError: The response contradicts itself; the message names the field.
    """
    steps = experiences_from_msg(response.steps)
    if not -1 <= response.selected < len(steps):
        raise ValueError(f"selected is {response.selected}, but {len(steps)} steps were recalled")
    return types.Recall(
        steps=steps,
        codes=response.codes,
        selected=response.selected,
        sketch=rows_from_msg(response.sketch) if response.sketch.rows else None,
        successor=rows_from_msg(response.successor) if response.successor.rows else None,
        confidence=response.confidence,
        success_probability=_none_for_nan(response.success_probability),
        candidates=response.candidates,
        revision=response.revision,
        reason=response.reason,
    )


def correction_to_msg(
    correction: types.Correction,
    recall_s: float,
    received_ns: int,
    created_ns: int,
    step: msg.PolicyStepStamped | None = None,
) -> msg.CorrectedAction:
    """Return a message of a correction.

    Args:
        correction: The correction.
        recall_s: Duration of the recall; NaN without one.
        received_ns: When its policy step was received.
        created_ns: When the correction was made.
        step: The message of its policy step, whose stamps are passed on.
    """
    return msg.CorrectedAction(
        context=context_to_msg(correction.context),
        base=chunk_to_msg(correction.base),
        residual=chunk_to_msg(correction.residual),
        corrected=chunk_to_msg(correction.corrected),
        mode=int(correction.mode),
        limited=correction.limited,
        proposed=msg.ActionChunk() if correction.proposed is None else chunk_to_msg(correction.proposed),
        clipped=correction.clipped,
        exploration=correction.exploration,
        reason=correction.reason,
        confidence=correction.confidence,
        success_probability=_nan_for_none(correction.success_probability),
        trust=correction.trust,
        rollout_id=correction.rollout_id,
        rollout_step=correction.rollout_step,
        recall_s=recall_s,
        observed=step.observed if step else Time(),
        inferred=step.created if step else Time(),
        received=to_time(received_ns),
        created=to_time(created_ns),
    )


def correction_from_msg(message: msg.CorrectedAction) -> types.Correction:
    """Return a correction.

    Raises:
        ValueError: The message contradicts itself.
    """
    return types.Correction(
        context=context_from_msg(message.context),
        base=chunk_from_msg(message.base),
        residual=chunk_from_msg(message.residual),
        corrected=chunk_from_msg(message.corrected),
        confidence=message.confidence,
        success_probability=_none_for_nan(message.success_probability),
        trust=message.trust,
        mode=types.Mode(message.mode),
        reason=message.reason,
        rollout_id=message.rollout_id,
        rollout_step=message.rollout_step,
        limited=message.limited,
        proposed=chunk_from_msg(message.proposed) if message.proposed.horizon else None,
        clipped=message.clipped,
        exploration=message.exploration,
    )
