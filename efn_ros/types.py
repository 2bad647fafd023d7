"""What flows through the loop, one frozen dataclass for each message.

observe -> infer -> recall -> correct -> act -> remember. Every step carries its `StepContext`, so that whatever
receives it needs no other topic to know which episode it belongs to. Arrays are NumPy, C-contiguous; float32 unless
said otherwise. H is the chunk's length in control steps, A the action's size, P the size of proprioception.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
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
    proprio_before (P,): of the decision before; zero and `proprio` where there was none. latent: (L, dz). similarity:
    the fused similarity in [0, 1]; score: with the efficiency prior, equation (18); probability: of being drawn, (19).
    code: (C,) of what it saw, where recall was asked for it; else (0,).
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


@dataclass(frozen=True)
class Recall:
    """The k recalled steps, best score first, the one that was drawn, and how far to trust it.

    drawn: index into `steps`, -1 when nothing was recalled (then `reason` says why). sketch, successor: tokens of the
    drawn step and of the step after it, (T, d). confidence: in [0, 1]. revision: of the bank that was searched. codes:
    identity of what encoded what the steps saw, empty where nothing did.
    """

    steps: tuple[Experience, ...] = ()
    drawn: int = -1
    sketch: Quantised | None = None
    successor: Quantised | None = None
    confidence: float = 0.0
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
    recalled fits what this episode has shown; `proposed` is scaled by it.
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
