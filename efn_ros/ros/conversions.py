"""Messages to types and back. Arrays move through the buffer protocol; no number becomes a Python object."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState

from efn_ros import msg, types
from efn_ros.ros.images import from_rgb, to_rgb
from efn_ros.srv import RetrieveExperience

_TYPECODES = {np.dtype(dtype): np.dtype(dtype).char for dtype in ("f4", "f8", "i1", "u1", "u4")}
_COLUMNS = [f.name for f in fields(types.Experiences) if f.name not in ("rollout_id", "instruction")]  # numbers


def to_field(values: np.ndarray) -> array.array:
    """An array for a sequence field of its dtype, flattened row-major."""
    field = array.array(_TYPECODES[values.dtype])
    field.frombytes(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data if values.size else b"")
    return field


def from_field(field: array.array, *shape: int) -> np.ndarray:
    """A sequence field as an array of `shape` (flat without one), of which one entry may be -1: what is left.

    Raises ValueError where its length does not fit.
    """
    values = np.frombuffer(field, dtype=field.typecode) if len(field) else np.empty(0, field.typecode)
    if not shape:
        return values
    known = math.prod(n for n in shape if n != -1)
    left = values.size // known if known else 0
    if values.size != known * (left if -1 in shape else 1):
        raise ValueError(f"a field holds {values.size} numbers, but its shape says {shape}")
    return values.reshape([left if n == -1 else n for n in shape])


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else value


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def to_time(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def from_time(stamp: Time) -> int:
    """Nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def positions_from_msg(message: JointState, joints: Sequence[str] = ()) -> tuple[list, np.ndarray]:
    """Names, or numbers without, and positions, float32 (P,), of `joints` in that order, or of all as they come.

    Raises ValueError for none, for names that do not fit, for joints that are not there and for what is not finite.
    """
    positions = from_field(message.position)
    if not len(positions):
        raise ValueError("joint_states holds no positions")
    if len(message.name) not in (0, len(positions)):
        raise ValueError(f"joint_states has {len(message.name)} names and {len(positions)} positions")
    names = list(message.name) or list(range(len(positions)))
    if joints:
        missing = [joint for joint in joints if joint not in names]
        if missing:
            raise ValueError(f"joint_states lacks {', '.join(missing)}; it has {', '.join(map(str, names))}")
        names, positions = list(joints), positions[[names.index(joint) for joint in joints]]
    if not np.isfinite(positions).all():
        entry = int(np.argmin(np.isfinite(positions)))
        raise ValueError(f"joint_states position {names[entry]!r} is {positions[entry]}")
    return names, positions.astype(np.float32)


def context_to_msg(context: types.StepContext) -> msg.StepHeader:
    message = msg.StepHeader(
        episode_id=context.episode_id,
        step=context.step,
        task=context.task,
        instruction=context.instruction,
        seed=context.seed,
        correct=context.correct,
        record=context.record,
    )
    message.header.stamp = to_time(context.stamp_ns)
    return message


def context_from_msg(message: msg.StepHeader) -> types.StepContext:
    return types.StepContext(
        episode_id=message.episode_id,
        step=message.step,
        stamp_ns=from_time(message.header.stamp),
        task=message.task,
        instruction=message.instruction,
        seed=message.seed,
        correct=message.correct,
        record=message.record,
    )


def chunk_to_msg(chunk: np.ndarray) -> msg.ActionChunk:
    return msg.ActionChunk(
        horizon=chunk.shape[0], action_size=chunk.shape[1], data=to_field(chunk.astype(np.float32, copy=False))
    )


def chunk_from_msg(message: msg.ActionChunk) -> np.ndarray:
    return from_field(message.data, message.horizon, message.action_size)


def rows_to_msg(rows: types.Quantised) -> msg.QuantisedRows:
    """One row for a vector (d,), T for a matrix (T, d)."""
    q = np.atleast_2d(rows.q)
    scale = np.atleast_1d(rows.scale).astype(np.float32, copy=False)
    return msg.QuantisedRows(rows=q.shape[0], width=q.shape[1], data=to_field(q), scale=to_field(scale))


def rows_from_msg(message: msg.QuantisedRows) -> types.Quantised:
    """(T, d)."""
    return types.Quantised(
        from_field(message.data, message.rows, message.width), from_field(message.scale, message.rows)
    )


def row_from_msg(message: msg.QuantisedRows) -> types.Quantised:
    """(d,), of a message of one row. Raises ValueError for any other number of them."""
    if message.rows != 1:
        raise ValueError(f"a key holds {message.rows} rows; it must be one")
    rows = rows_from_msg(message)
    return types.Quantised(rows.q[0], rows.scale[0])


def observation_to_msg(observation: types.Observation, created_ns: int) -> msg.ObservationStamped:
    context = context_to_msg(observation.context)
    return msg.ObservationStamped(
        context=context,
        cameras=list(observation.images),
        images=[from_rgb(image, context.header) for image in observation.images.values()],
        proprio=to_field(observation.proprio.astype(np.float32, copy=False)),
        created=to_time(created_ns),
    )


def observation_from_msg(message: msg.ObservationStamped) -> types.Observation:
    images = {name: to_rgb(image) for name, image in zip(message.cameras, message.images, strict=True)}
    return types.Observation(context_from_msg(message.context), images, from_field(message.proprio))


def policy_step_to_msg(
    step: types.PolicyStep, received_ns: int, created_ns: int, observed: Time | None = None
) -> msg.PolicyStepStamped:
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
    return types.PolicyStep(
        context=context_from_msg(message.context),
        base=chunk_from_msg(message.base),
        key=row_from_msg(message.key),
        sketch=rows_from_msg(message.sketch),
        latent=from_field(message.latent, message.latent_tokens, -1),
        instruction_embedding=from_field(message.instruction_embedding),
        proprio=from_field(message.proprio),
        policy=message.policy,
        projection=message.projection,
    )


def query_to_request(step: msg.PolicyStepStamped) -> RetrieveExperience.Request:
    """The request of a policy step, whose fields are taken as they came."""
    return RetrieveExperience.Request(
        context=step.context,
        instruction_embedding=step.instruction_embedding,
        key=step.key,
        latent_tokens=step.latent_tokens,
        latent=step.latent,
        proprio=step.proprio,
        policy=step.policy,
        projection=step.projection,
    )


def query_from_request(request: RetrieveExperience.Request) -> types.RetrievalQuery:
    """Raises ValueError for a request whose fields do not fit each other."""
    return types.RetrievalQuery(
        context=context_from_msg(request.context),
        key=row_from_msg(request.key),
        latent=from_field(request.latent, request.latent_tokens, -1),
        instruction_embedding=from_field(request.instruction_embedding),
        proprio=from_field(request.proprio),
        policy=request.policy,
        projection=request.projection,
    )


def experiences_to_msg(steps: types.Experiences) -> msg.ExperienceArray:
    return msg.ExperienceArray(
        rollout_id=list(steps.rollout_id),
        instruction=list(steps.instruction),
        horizon=steps.executed.shape[1],
        action_size=steps.executed.shape[2],
        **{name: to_field(getattr(steps, name)) for name in _COLUMNS},
    )


def experiences_from_msg(message: msg.ExperienceArray) -> types.Experiences:
    """Raises ValueError for a column that does not hold so many steps."""
    count, columns = len(message.rollout_id), {name: from_field(getattr(message, name)) for name in _COLUMNS}
    if not count and any(column.size for column in columns.values()):
        raise ValueError("columns of recalled steps hold numbers, but rollout_id names no step")
    for name in ("executed", "base", "executed_before"):
        columns[name] = from_field(getattr(message, name), count, message.horizon, message.action_size)
    for name in ("proprio", "proprio_next", "proprio_before", "latent", "code"):
        columns[name] = from_field(getattr(message, name), count, -1) if count else columns[name].reshape(0, 0)
    return types.Experiences(tuple(message.rollout_id), instruction=tuple(message.instruction), **columns)


def recall_to_response(recall: types.Recall, response):
    """Fill a response of RetrieveExperience."""
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


def recall_from_response(response) -> types.Recall:
    """Raises ValueError, naming the field, for an answer that contradicts itself."""
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
    """step: the message that is answered, whose stamps are passed on."""
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
