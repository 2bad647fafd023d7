# SPDX-License-Identifier: MIT
"""Demonstrations: the actions of a scripted expert, in states that expert, noise or student have led to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from efn_ros.policies.policy import FrozenPolicy
from efn_ros.runtime.episode import Episode
from efn_ros.worlds.world import TrainingWorld

NOISE_SCALES = (0.0, 0.2, 0.4, 0.7)  # standard deviation of an episode's action noise, relative to full speed
ROTATION_NOISE = 0.3  # relative to the noise of translation
STUDENT_NOISE = 0.3  # in an episode that the student drives, relative to one that the expert drives
DECISIONS_AFTER_SUCCESS = 2  # so that the student learns to stay
MAX_STEPS = 200  # control steps of an episode
MAX_EXPERT_PREFIX, PREFIX_FRACTION = 15, 0.3  # decisions before the student drives; fraction of episodes with some


@dataclass
class Demonstrations:
    """N decisions."""

    images: np.ndarray  # uint8 (N, C, S, S, 3)
    proprio: np.ndarray  # (N, P)
    actions: np.ndarray  # (N, H, A), the next actions of the expert
    landmarks: np.ndarray  # (N, C, 3, 2), image positions of hand, object and goal, for the grounding loss alone
    task: np.ndarray  # int64 (N,)
    succeeded: np.ndarray  # bool (N,), of its episode

    def __len__(self) -> int:
        return len(self.proprio)

    @staticmethod
    def concatenate(parts: list[Demonstrations]) -> Demonstrations:
        """Return all demonstrations of the parts, in their order."""
        return Demonstrations(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Demonstrations)))

    def save(self, path: Path) -> None:
        """Write a NumPy archive; the file exists only when it is complete."""
        partial = path.with_suffix(".tmp.npz")
        np.savez(partial, **vars(self))
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Demonstrations:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


def demonstrate(
    world: TrainingWorld, task: str, scene: int, horizon: int, student: FrozenPolicy | None
) -> Demonstrations:
    """Return the decisions of one episode, labelled by the expert.

    With a student, the student drives and the expert only labels (DAgger); else the expert drives, disturbed by noise.
    Labels are always the undisturbed expert's next `horizon` actions, found by letting it act and restoring the
    simulation.

    Args:
        world: Has an expert for the task.
        task: Of the world.
        scene: Seed of the scene, and of every random draw.
        horizon: H of the labels, and control steps of a decision.
        student: The policy that drives; None: the expert does.

    Source: arXiv:1011.0686.
    """
    index = list(world.spec.tasks).index(task)
    rng = np.random.default_rng([scene, index, student is not None])
    steps = min(world.spec.horizon[task], MAX_STEPS) // horizon * horizon
    episode = Episode(
        world,
        task,
        scene,
        episode_id="demonstration",
        execute_steps=horizon,
        decisions_after_success=DECISIONS_AFTER_SUCCESS,
        max_steps=steps,
    )
    scale = rng.choice(NOISE_SCALES) * (STUDENT_NOISE if student else 1.0)
    moves = len(world.spec.low) - 1  # translation, then rotation, if any; the gripper comes last
    share = np.where(np.arange(moves) < 3, 1.0, ROTATION_NOISE)
    bias = share * rng.normal(scale=0.5 * scale, size=moves)
    prefix = int(rng.integers(0, MAX_EXPERT_PREFIX)) if student and rng.random() < PREFIX_FRACTION else 0
    rows = []
    for observation in episode:
        landmarks = world.landmarks()
        images = np.stack([observation.images[camera] for camera in world.spec.cameras])
        rows.append((images, observation.proprio, _labels(world, horizon), landmarks))
        chunk = student.infer(observation).action if student and episode.decision >= prefix else None
        for h in range(horizon):
            action = (world.expert() if chunk is None else chunk[h]).copy()
            action[:moves] += bias + share * rng.normal(scale=scale, size=moves)
            episode.step(np.clip(action, -1, 1))
        episode.end_decision()
    images, proprio, actions, landmarks = (np.stack(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Demonstrations(images, proprio, actions, landmarks, np.full(n, index), np.full(n, episode.success))


def _labels(world: TrainingWorld, horizon: int) -> np.ndarray:
    """The expert's next actions, (horizon, A); the simulation is restored."""
    saved, actions = world.save(), []
    for _ in range(horizon):
        actions.append(world.expert())
        world.step(actions[-1])
    world.restore(saved)
    return np.stack(actions)
