"""What flows through the loop, one frozen dataclass for each message.

observe -> infer -> recall -> correct -> act -> remember. Every step carries its `StepContext`, so that whatever
receives it needs no other topic to know which episode it belongs to. Arrays are NumPy, C-contiguous; float32 unless
said otherwise. H is the chunk's length in control steps, A the action's size, P the size of proprioception.
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
    """Which decision this is: the key of everything is (episode_id, step), the clock is `stamp_ns`.

    step: index of the decision within its episode, from 0. stamp_ns: source stamp of the image. seed: all random
    choices of the episode derive from (seed, step). correct, record: whether memory may correct and remember it.
    """

    episode_id: str
    step: int
    stamp_ns: int
    task: str
    instruction: str
    seed: int = 0
    correct: bool = True
    record: bool = True


@dataclass(frozen=True)
class Observation:
    """images: camera name to uint8 (height, width, 3) RGB, at the size the policy asks for. proprio: (P,)."""

    context: StepContext
    images: dict[str, np.ndarray]
    proprio: np.ndarray


@dataclass(frozen=True)
class Quantised:
    """Rows of unit vectors as int8 with one float scale a row, equation (31). q: int8 (..., d), scale: (...,)."""

    q: np.ndarray
    scale: np.ndarray

    def dequantise(self) -> np.ndarray:
        """float32 (..., d)."""
        return self.q.astype(np.float32) * self.scale[..., None].astype(np.float32)


@dataclass(frozen=True)
class PolicyStep:
    """What the frozen policy made of an observation, in the compact form that travels and is remembered.

    base: (H, A) action chunk, equation (2). key: descriptor (d,) of V, (4)(5)(30)(31). sketch: (T, d), every token
    of V projected. latent: Z, (L, dz), equation (1). instruction_embedding: (E,), unit norm. proprio: (P,). policy,
    projection: fingerprint of the weights and identity of the projection that made it. visual: V itself, (T, D), (1),
    for a corrector that decodes changed latent tokens; None where nobody asked for it. It is never remembered.
    """

    context: StepContext
    base: np.ndarray
    key: Quantised
    sketch: Quantised
    latent: np.ndarray
    instruction_embedding: np.ndarray
    proprio: np.ndarray
    policy: str = ""
    projection: str = ""
    visual: np.ndarray | None = None


@dataclass(frozen=True)
class Experience:
    """One remembered step, as recall returns it.

    executed, base: (H, A). proprio, proprio_next: (P,) before and after the chunk. executed_before (H, A),
    proprio_before (P,): of the decision before; zero and `proprio` where there was none. latent: (dz,), the mean of its
    tokens. similarity: the fused similarity in [0, 1]; score: with the efficiency prior, equation (18); probability: of
    being drawn, (19). code: (C,) of what it saw, where recall was asked for it; else (0,).
    """

    rollout_id: str
    step: int
    instruction: str
    outcome: Outcome
    rollout_length: int
    executed: np.ndarray
    base: np.ndarray
    proprio: np.ndarray
    proprio_next: np.ndarray
    executed_before: np.ndarray
    proprio_before: np.ndarray
    latent: np.ndarray
    similarity: float
    score: float
    probability: float
    code: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True, eq=False)
class Experiences(Sequence[Experience]):
    """M remembered steps side by side: every field of `Experience` with one more axis in front.

    step, rollout_length: uint32 (M,). outcome: uint8 (M,). similarity, score, probability: float64 (M,). rollout_id,
    instruction: tuples of M. Raises ValueError, naming the field, for one that is not of as many steps as the others.
    """

    rollout_id: tuple[str, ...] = ()
    step: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    instruction: tuple[str, ...] = ()
    outcome: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    rollout_length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    executed: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    base: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    proprio: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    proprio_next: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    executed_before: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    proprio_before: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    latent: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    similarity: np.ndarray = field(default_factory=lambda: np.zeros(0))
    score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    probability: np.ndarray = field(default_factory=lambda: np.zeros(0))
    code: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __post_init__(self) -> None:
        for name, column in vars(self).items():
            if len(column) != len(self.rollout_id):
                raise ValueError(f"{name} is of {len(column)} steps, rollout_id of {len(self.rollout_id)}")

    @classmethod
    def of(cls, *steps: Experience) -> Experiences:
        """Of steps that have the same sizes."""
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
    """The k recalled steps, best score first, the one that was drawn, and how far to trust it.

    drawn: index into `steps`, -1 when nothing was recalled (then `reason` says why). sketch, successor: tokens of the
    drawn step and of the step after it, (T, d). confidence: in [0, 1], how like and how successful. chance: in (0, 1),
    that an episode succeeds which follows it, None where too few have. revision: of the bank that was searched. codes:
    identity of what encoded what the steps saw, empty where nothing did.
    """

    steps: Experiences = Experiences()
    drawn: int = -1
    sketch: Quantised | None = None
    successor: Quantised | None = None
    confidence: float = 0.0
    chance: float | None = None
    candidates: int = 0
    revision: int = 0
    reason: str = ""
    codes: str = ""


@dataclass(frozen=True)
class Correction:
    """The action that goes out: base + residual, equation (7), kept within every limit as `corrected`; all (H, A).

    limited: a limit of motion made `corrected` differ from base + residual. mode, reason: what it is and, where it is
    not `CORRECTED`, why (of SHADOW: why nothing was proposed). rollout_id, rollout_step: the experience behind it.
    proposed: (H, A), the residual that memory proposed, as far as the limits leave it, also where it was not executed;
    None where it proposed nothing. cut: the limits left less of it than memory asked for. exploration: which of
    `exploration.MODES` made `residual` differ from `proposed`; empty where none did. trust: in [0, 1], that what was
    recalled fits what this episode has shown; `proposed` is scaled by it. chance: of the recall.
    """

    context: StepContext
    base: np.ndarray
    residual: np.ndarray
    corrected: np.ndarray
    confidence: float
    mode: Mode
    reason: str = ""
    rollout_id: str = ""
    rollout_step: int = -1
    limited: bool = False
    proposed: np.ndarray | None = None
    cut: bool = False
    exploration: str = ""
    trust: float = 1.0
    chance: float | None = None


@dataclass(frozen=True)
class Past:
    """An earlier decision of the running episode: proprio (P,) at it, executed (H, A), the chunk that went out."""

    proprio: np.ndarray
    executed: np.ndarray


class Proposal(NamedTuple):
    """What a method of correction says: residual (H, A), in words why it is zero (empty where it is not), and how far
    memory is trusted, in [0, 1]; the residual is scaled by it already."""

    residual: np.ndarray
    reason: str = ""
    trust: float = 1.0


@dataclass(frozen=True)
class RolloutStep:
    """One remembered decision: what was seen, what the policy made of it and what was executed."""

    observation: Observation
    policy_step: PolicyStep
    correction: Correction


@dataclass(frozen=True)
class Rollout:
    """A finished episode. length: control steps it took. policy: fingerprint of the frozen policy. start_ns: stamp."""

    episode_id: str
    robot: str
    task: str
    instruction: str
    seed: int
    outcome: Outcome
    length: int
    start_ns: int
    policy: str
    steps: tuple[RolloutStep, ...] = field(default=())
