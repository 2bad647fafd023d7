"""Demonstrations: what a scripted expert would do, in states that it, noise or the student itself has led to."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from efn_ros.policies.policy import FrozenPolicy
from efn_ros.types import Observation, StepContext
from efn_ros.worlds.world import TeachingWorld

NOISE_SCALES = (0.0, 0.2, 0.4, 0.7)  # standard deviation of an episode's action noise, of full speed
ROTATION_NOISE = 0.3  # of that of translation
DECISIONS_AFTER_SUCCESS = 2  # so that the student learns to stay
MOST_STEPS = 200  # control steps of an episode


@dataclass
class Demonstrations:
    """N decisions. images: uint8 (N, C, S, S, 3). proprio: (N, P). actions: (N, H, A), what the expert would do from
    here. landmarks: (N, C, 3, 2), where hand, object and goal appear, for the grounding loss alone. task: int64 (N,).
    succeeded: bool (N,) of its episode."""

    images: np.ndarray
    proprio: np.ndarray
    actions: np.ndarray
    landmarks: np.ndarray
    task: np.ndarray
    succeeded: np.ndarray

    def __len__(self) -> int:
        return len(self.proprio)

    @staticmethod
    def concatenate(parts: list[Demonstrations]) -> Demonstrations:
        return Demonstrations(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Demonstrations)))


def demonstrate(
    world: TeachingWorld, task: str, seed: int, horizon: int, student: FrozenPolicy | None
) -> Demonstrations:
    """One episode. With a student, it drives and the expert only says what it would have done (DAgger, Ross et al.
    2011); else the expert drives, disturbed by noise. Labels are always the undisturbed expert's next `horizon`
    actions, found by letting it act and taking the simulation back."""
    rng = np.random.default_rng([seed, list(world.spec.tasks).index(task), student is not None])
    world.reset(task, seed)
    scale = rng.choice(NOISE_SCALES) * (0.3 if student else 1.0)
    moves = len(world.spec.low) - 1  # translation, then rotation, if any; the gripper comes last
    share = np.where(np.arange(moves) < 3, 1.0, ROTATION_NOISE)
    bias = share * rng.normal(scale=0.5 * scale, size=moves)
    expert_prefix = int(rng.integers(0, 15)) if student and rng.random() < 0.3 else 0
    rows, after, succeeded = [], 0, False
    for decision in range(min(world.spec.horizon[task], MOST_STEPS) // horizon):
        images, proprio = world.observe()
        landmarks, saved, actions = world.landmarks(), world.save(), []
        for _ in range(horizon):
            actions.append(world.expert())
            world.step(actions[-1])
        world.restore(saved)
        rows.append((np.stack([images[c] for c in world.spec.cameras]), proprio, np.stack(actions), landmarks))
        chunk = None
        if student and decision >= expert_prefix:
            context = StepContext("demonstration", decision, 0, task, world.spec.tasks[task])
            chunk = student.infer(Observation(context, images, proprio)).action
        for h in range(horizon):
            action = (world.expert() if chunk is None else chunk[h]).copy()
            action[:moves] += bias + share * rng.normal(scale=scale, size=moves)
            succeeded = world.step(np.clip(action, -1, 1)) or succeeded
        after += succeeded
        if after > DECISIONS_AFTER_SUCCESS:
            break
    images, proprio, actions, landmarks = (np.stack(column) for column in zip(*rows, strict=True))
    n = len(rows)
    index = list(world.spec.tasks).index(task)
    return Demonstrations(images, proprio, actions, landmarks, np.full(n, index), np.full(n, succeeded))
