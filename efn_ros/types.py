"""What flows through the loop, one frozen dataclass for each message.

observe -> infer -> recall -> correct -> act -> remember. Every step carries its `StepContext`, so that whatever
receives it needs no other topic to know which episode it belongs to. Arrays are NumPy, C-contiguous; float32 unless
said otherwise. H is the chunk's length in control steps, A the action's size, P the size of proprioception, V the
visual tokens (T, D) and Z the latent action tokens (L, dz) of the policy, d the width of a projected token.
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
    """What a corrected action is; the values are those of `CorrectedAction.msg`."""

    CORRECTED = 0
    BASE = 1
    HOLD = 2
    STOPPED = 3
    SHADOW = 4


@dataclass(frozen=True)
class StepContext:
    """Which decision this is: the key of everything is (episode_id, step), the clock is `stamp_ns`."""

    episode_id: str
    step: int  # index of the decision within its episode, from 0
    stamp_ns: int  # source stamp of the image, nanoseconds
    task: str
    instruction: str
    seed: int = 0  # all random choices of the episode derive from (seed, step)
    correct: bool = True  # whether memory may correct this episode
    record: bool = True  # whether this episode is remembered


@dataclass(frozen=True)
class Observation:
    """What the robot sees and feels at one decision."""

    context: StepContext
    images: dict[str, np.ndarray]  # camera name to uint8 (height, width, 3) RGB, at the size the policy asks for
    proprio: np.ndarray  # (P,)


@dataclass(frozen=True)
class Quantised:
    """Rows of unit vectors as int8 with one scale a row.

    Source: equation (31).
    """

    q: np.ndarray  # int8 (..., d)
    scale: np.ndarray  # (...,)

    def dequantise(self) -> np.ndarray:
        """Return scale * q, float32 (..., d)."""
        return self.q.astype(np.float32) * self.scale[..., None].astype(np.float32)


@dataclass(frozen=True)
class RetrievalQuery:
    """What memory is asked with: the part of a policy step that recall compares."""

    context: StepContext
    key: Quantised  # compact descriptor of V, (d,)
    latent: np.ndarray  # Z, (L, dz)
    instruction_embedding: np.ndarray  # (E,), unit norm
    proprio: np.ndarray  # (P,)
    policy: str = ""  # fingerprint of the policy behind key and latent
    projection: str = ""  # identity of the projection behind the key


@dataclass(frozen=True)
class PolicyStep:
    """What the frozen policy made of an observation, in the compact form that travels and is remembered."""

    context: StepContext
    base: np.ndarray  # base action chunk (H, A), equation (2)
    key: Quantised  # compact descriptor of V, (d,), equations (4)(5)(30)(31)
    sketch: Quantised  # every token of V projected, (T, d), equations (30)(31)
    latent: np.ndarray  # Z, (L, dz), equation (1)
    instruction_embedding: np.ndarray  # (E,), unit norm
    proprio: np.ndarray  # (P,)
    policy: str = ""  # fingerprint of the policy's weights
    projection: str = ""  # identity of the projection behind key and sketch

    @property
    def query(self) -> RetrievalQuery:
        """What memory is asked with."""
        return RetrievalQuery(
            self.context,
            self.key,
            self.latent,
            self.instruction_embedding,
            self.proprio,
            self.policy,
            self.projection,
        )


@dataclass(frozen=True)
class Experience:
    """One remembered step, as recall returns it."""

    rollout_id: str
    step: int
    instruction: str
    outcome: Outcome
    rollout_length: int  # control steps
    executed: np.ndarray  # the chunk that was executed, (H, A)
    base: np.ndarray  # what the policy alone would have done, (H, A)
    proprio: np.ndarray  # before the chunk, (P,)
    proprio_next: np.ndarray  # after it, (P,)
    executed_before: np.ndarray  # the chunk of the decision before, (H, A); zero where there was none
    proprio_before: np.ndarray  # before that chunk, (P,); `proprio` where there was none
    latent: np.ndarray  # mean of the latent action tokens, (dz,)
    similarity: float  # fused, in [0, 1]
    score: float  # with the efficiency prior, equation (18)
    probability: float  # of being selected, equation (19)
    code: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (C,) of what it saw, or (0,)


@dataclass(frozen=True, eq=False)
class Experiences(Sequence[Experience]):
    """M remembered steps side by side: every field of `Experience` with one more axis in front.

    Raises:
        ValueError: A field is not of as many steps as the others; the message names it.
    """

    rollout_id: tuple[str, ...] = ()
    step: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))  # uint32 (M,)
    instruction: tuple[str, ...] = ()
    outcome: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))  # uint8 (M,)
    rollout_length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))  # uint32 (M,)
    executed: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))  # (M, H, A)
    base: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))  # (M, H, A)
    proprio: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (M, P)
    proprio_next: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (M, P)
    executed_before: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))  # (M, H, A)
    proprio_before: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (M, P)
    latent: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (M, dz)
    similarity: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 (M,)
    score: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 (M,)
    probability: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 (M,)
    code: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (M, C)

    def __post_init__(self) -> None:
        for name, column in vars(self).items():
            if len(column) != len(self.rollout_id):
                raise ValueError(f"{name} is of {len(column)} steps, rollout_id of {len(self.rollout_id)}")

    @classmethod
    def of(cls, *steps: Experience) -> Experiences:
        """Lay steps that have the same sizes side by side."""
        if not steps:
            return cls()
        columns = {f.name: [getattr(step, f.name) for step in steps] for f in fields(Experience)}
        names = {name: tuple(columns.pop(name)) for name in ("rollout_id", "instruction")}
        dtypes = {"step": np.uint32, "outcome": np.uint8, "rollout_length": np.uint32}
        dtypes |= dict.fromkeys(("similarity", "score", "probability"), np.float64)
        return cls(**names, **{n: np.array(column, dtypes.get(n, np.float32)) for n, column in columns.items()})

    def __len__(self) -> int:
        return len(self.rollout_id)

    def __getitem__(self, index: int) -> Experience:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} recalled steps, not one of index {index}")
        row = {name: column[index] for name, column in vars(self).items()}
        row |= {name: int(row[name]) for name in ("step", "rollout_length")} | {"outcome": Outcome(row["outcome"])}
        return Experience(**row | {name: float(row[name]) for name in ("similarity", "score", "probability")})


@dataclass(frozen=True)
class Recall:
    """The recalled steps, the one that was selected, and how far to trust it."""

    steps: Experiences = Experiences()  # the k best by score, best first, then those drawn at random
    selected: int = -1  # index into `steps`; -1 where nothing was recalled, then `reason` says why
    sketch: Quantised | None = None  # tokens of the selected step, (T, d)
    successor: Quantised | None = None  # tokens of the step after it, (T, d)
    confidence: float = 0.0  # in [0, 1]: how similar and how successful
    success_probability: float | None = None  # of an episode that follows it; None where too few have
    candidates: int = 0  # steps that were compared
    revision: int = 0  # of the bank that was searched
    reason: str = ""
    codes: str = ""  # identity of the encoder behind `Experience.code`; empty where nothing was encoded


@dataclass(frozen=True)
class Correction:
    """The action that goes out: base + residual, equation (7), kept within every limit; chunks are (H, A)."""

    context: StepContext
    base: np.ndarray
    residual: np.ndarray
    corrected: np.ndarray
    confidence: float  # of the recall, in [0, 1]
    mode: Mode
    reason: str = ""  # why the mode is not CORRECTED; of SHADOW, why nothing was proposed
    rollout_id: str = ""  # the experience behind the correction
    rollout_step: int = -1
    limited: bool = False  # a limit of motion made `corrected` differ from base + residual
    proposed: np.ndarray | None = None  # the residual that memory proposed, within the limits, executed or not
    clipped: bool = False  # the limits left less of it than memory asked for
    exploration: str = ""  # the mode of exploration that made `residual` differ from `proposed`
    trust: float = 1.0  # in [0, 1], that the recall fits what this episode has shown; `proposed` is scaled by it
    success_probability: float | None = None  # of the recall


@dataclass(frozen=True)
class PastDecision:
    """An earlier decision of the running episode."""

    proprio: np.ndarray  # at the decision, (P,)
    executed: np.ndarray  # the chunk that went out, (H, A)


class Proposal(NamedTuple):
    """What a method of correction proposes."""

    residual: np.ndarray  # (H, A), scaled by `trust` already
    reason: str = ""  # why the residual is zero; empty where it is not
    trust: float = 1.0  # in memory, in [0, 1]


@dataclass(frozen=True)
class RolloutStep:
    """One remembered decision: what was seen, what the policy made of it and what was executed."""

    observation: Observation
    policy_step: PolicyStep
    correction: Correction


@dataclass(frozen=True)
class Rollout:
    """A finished episode."""

    episode_id: str
    robot: str
    task: str
    instruction: str
    seed: int
    outcome: Outcome
    length: int  # control steps
    start_ns: int  # stamp of its beginning, nanoseconds
    policy: str  # fingerprint of the frozen policy
    steps: tuple[RolloutStep, ...] = ()
