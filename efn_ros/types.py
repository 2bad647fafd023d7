# SPDX-License-Identifier: MIT
"""Messages of the control loop as frozen dataclasses: observe, infer, recall, correct, act, record.

Every message carries its `StepContext`, so a receiver needs no other topic to know its episode. Arrays are C-contiguous
NumPy arrays, float32 unless stated otherwise. H is the length of a chunk in control steps, A the size of an action, P
the size of proprioception; V (T, D) are the visual tokens and Z (L, dz) the latent action tokens of the policy; d is
the width of a projected token.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np


class Outcome(enum.IntEnum):
    """How an episode ended; the values are those of `EpisodeState.msg`."""

    UNKNOWN = 0
    SUCCESS = 1
    FAILURE = 2
    ABORTED = 3


class Mode(enum.IntEnum):
    """Kind of a corrected action; the values are those of `CorrectedAction.msg`."""

    CORRECTED = 0
    BASE = 1
    HOLD = 2
    STOPPED = 3
    SHADOW = 4


@dataclass(frozen=True)
class StepContext:
    """Identity of one decision: its key is (episode_id, step), its clock is `stamp_ns`."""

    episode_id: str  # unique name of the episode
    step: int  # index of the decision within its episode, from 0
    stamp_ns: int  # source stamp of the image, nanoseconds
    task: str  # name of the task
    instruction: str  # in natural language
    seed: int = 0  # all random choices of the episode derive from (seed, step)
    correct: bool = True  # whether memory may correct this episode
    record: bool = True  # whether the bank stores this episode


@dataclass(frozen=True)
class Observation:
    """Sensor data of one decision."""

    context: StepContext  # identity of the decision
    images: dict[str, np.ndarray]  # camera name to uint8 (height, width, 3) RGB, at the size the policy expects
    proprio: np.ndarray  # (P,)


@dataclass(frozen=True)
class Quantised:
    """Rows of unit vectors as int8 with one scale a row, made by `efn_ros.features.sketches.quantise`."""

    q: np.ndarray  # int8 (..., d)
    scale: np.ndarray  # (...,)

    def dequantise(self) -> np.ndarray:
        """Return scale * q, float32 (..., d)."""
        return self.q.astype(np.float32) * self.scale[..., None].astype(np.float32)


@dataclass(frozen=True)
class RetrievalQuery:
    """A query to the experience bank: the part of a policy step that retrieval compares."""

    context: StepContext  # identity of the decision
    key: Quantised  # compact descriptor of V, (d,)
    latent: np.ndarray  # Z, (L, dz)
    instruction_embedding: np.ndarray  # (E,), unit norm
    proprio: np.ndarray  # (P,)
    policy: str = ""  # fingerprint of the policy behind key and latent
    projection: str = ""  # identity of the projection behind the key


@dataclass(frozen=True)
class PolicyStep:
    """Output of the frozen policy for one observation, in the compact form that is sent and stored."""

    context: StepContext  # identity of the decision
    base: np.ndarray  # base action chunk (H, A), (2)
    key: Quantised  # compact descriptor of V, (d,), (4) (5) (30) (31)
    sketch: Quantised  # every token of V projected, (T, d), (30) (31)
    latent: np.ndarray  # Z, (L, dz), (1)
    instruction_embedding: np.ndarray  # (E,), unit norm
    proprio: np.ndarray  # (P,)
    policy: str = ""  # fingerprint of the policy's weights
    projection: str = ""  # identity of the projection behind key and sketch

    @property
    def query(self) -> RetrievalQuery:
        """The query of this step to the experience bank."""
        return RetrievalQuery(**{f.name: getattr(self, f.name) for f in fields(RetrievalQuery)})


@dataclass(frozen=True)
class Experience:
    """One stored step, as retrieval returns it."""

    rollout_id: str  # episode that the step comes from
    step: int  # index of the decision within it
    instruction: str  # of the rollout
    outcome: Outcome  # of the rollout
    rollout_length: int  # control steps
    executed: np.ndarray  # chunk that was executed, (H, A)
    base: np.ndarray  # chunk of the policy alone, (H, A)
    proprio: np.ndarray  # before the chunk, (P,)
    proprio_next: np.ndarray  # after it, (P,)
    executed_before: np.ndarray  # chunk of the previous decision, (H, A); zero for the first one
    proprio_before: np.ndarray  # before that chunk, (P,); `proprio` for the first one
    latent: np.ndarray  # mean of the latent action tokens, (dz,)
    similarity: float  # fused similarity in [0, 1], (38)
    score: float  # with the efficiency prior, (18)
    probability: float  # of being selected, (19)
    code: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (C,), code of its sketch; (0,): none


def _empty(*shape: int, dtype: type = np.float32):
    """Return a dataclass field whose default is an array without rows."""
    return field(default_factory=lambda: np.zeros(shape, dtype))


# Types of the numbers in one `Experience`; its columns in `Experiences` are arrays.
_SCALARS = {
    "step": int, "outcome": Outcome, "rollout_length": int, "similarity": float, "score": float, "probability": float
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Experiences(Sequence[Experience]):
    """M stored steps as columns: every field of `Experience` with one more axis in front.

    Raises:
        ValueError: A column has another number of steps than `rollout_id`; the message names it.
    """

    rollout_id: tuple[str, ...] = ()  # M identifiers
    step: np.ndarray = _empty(0, dtype=np.uint32)  # uint32 (M,)
    instruction: tuple[str, ...] = ()  # M instructions
    outcome: np.ndarray = _empty(0, dtype=np.uint8)  # uint8 (M,), values of `Outcome`
    rollout_length: np.ndarray = _empty(0, dtype=np.uint32)  # uint32 (M,)
    executed: np.ndarray = _empty(0, 0, 0)  # (M, H, A)
    base: np.ndarray = _empty(0, 0, 0)  # (M, H, A)
    proprio: np.ndarray = _empty(0, 0)  # (M, P)
    proprio_next: np.ndarray = _empty(0, 0)  # (M, P)
    executed_before: np.ndarray = _empty(0, 0, 0)  # (M, H, A)
    proprio_before: np.ndarray = _empty(0, 0)  # (M, P)
    latent: np.ndarray = _empty(0, 0)  # (M, dz)
    similarity: np.ndarray = _empty(0, dtype=float)  # float64 (M,)
    score: np.ndarray = _empty(0, dtype=float)  # float64 (M,)
    probability: np.ndarray = _empty(0, dtype=float)  # float64 (M,)
    code: np.ndarray = _empty(0, 0)  # (M, C)

    def __post_init__(self) -> None:
        for name, column in vars(self).items():
            if len(column) != len(self.rollout_id):
                raise ValueError(f"{name} has {len(column)} steps, but rollout_id has {len(self.rollout_id)}")

    def __len__(self) -> int:
        return len(self.rollout_id)

    def __getitem__(self, index: int) -> Experience:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range; {len(self)} steps were recalled")
        row = {name: column[index] for name, column in vars(self).items()}
        row |= {name: convert(row[name]) for name, convert in _SCALARS.items()}
        return Experience(**row)


@dataclass(frozen=True)
class Recall:
    """Retrieved steps, the selected one, and the confidence in it."""

    steps: Experiences = Experiences()  # the k best by score, best first, then those drawn at random
    selected: int = -1  # index into `steps`; -1 if no step was recalled, then `reason` states why
    sketch: Quantised | None = None  # tokens of the selected step, (T, d)
    successor: Quantised | None = None  # tokens of the step after it, (T, d)
    confidence: float = 0.0  # in [0, 1], from similarity and the share of successes
    success_probability: float | None = None  # of an episode that follows the step; None if too few have ended
    candidates: int = 0  # steps that were compared
    revision: int = 0  # of the bank that was searched
    reason: str = ""  # why no step was recalled
    codes: str = ""  # identity of the encoder behind `Experience.code`; empty if no step was encoded


@dataclass(frozen=True)
class Correction:
    """The action that is executed: base + residual, (7), within every limit. Chunks are (H, A)."""

    context: StepContext  # identity of the decision
    base: np.ndarray  # chunk of the policy alone
    residual: np.ndarray  # chunk added to the base
    corrected: np.ndarray  # chunk that is executed
    confidence: float  # of the recall, in [0, 1]
    mode: Mode  # kind of the action
    reason: str = ""  # why the mode is not CORRECTED; in SHADOW mode, why no residual was proposed
    rollout_id: str = ""  # rollout behind the correction
    rollout_step: int = -1  # its decision
    limited: bool = False  # a motion limit made `corrected` differ from base + residual
    proposed: np.ndarray | None = None  # residual that memory proposed, within the limits, executed or not
    clipped: bool = False  # the limits reduced the proposed residual
    exploration: str = ""  # mode of exploration that made `residual` differ from `proposed`
    trust: float = 1.0  # trust in the recall, in [0, 1]; `proposed` is scaled by it
    success_probability: float | None = None  # of the recall


@dataclass(frozen=True)
class PastDecision:
    """An earlier decision of the running episode."""

    proprio: np.ndarray  # at the decision, (P,)
    executed: np.ndarray  # the executed chunk, (H, A)


class Proposal(NamedTuple):
    """Proposal of a correction method."""

    residual: np.ndarray  # (H, A), scaled by `trust` already
    reason: str = ""  # why the residual is zero; empty if it is not
    trust: float = 1.0  # in the recall, in [0, 1]


@dataclass(frozen=True)
class RolloutStep:
    """One recorded decision."""

    observation: Observation  # sensor data
    policy_step: PolicyStep  # output of the policy
    correction: Correction  # executed action


@dataclass(frozen=True)
class Rollout:
    """A finished episode."""

    episode_id: str  # unique name
    robot: str  # name of the robot
    task: str  # name of the task
    instruction: str  # in natural language
    seed: int  # of the episode
    outcome: Outcome  # how it ended
    length: int  # control steps
    start_ns: int  # stamp of its beginning, nanoseconds
    policy: str  # fingerprint of the frozen policy
    steps: tuple[RolloutStep, ...] = ()  # its decisions, in temporal order
