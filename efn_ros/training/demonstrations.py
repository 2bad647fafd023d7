"""Demonstrations: what a scripted expert would do, in states that it, noise or the student itself has led to."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from efn_ros.policies.policy import FrozenPolicy
from efn_ros.runtime.episode import Episode
from efn_ros.types import Observation
from efn_ros.worlds.world import TrainingWorld

NOISE_SCALES = (0.0, 0.2, 0.4, 0.7)  # standard deviation of an episode's action noise, of full speed
ROTATION_NOISE = 0.3  # of that of translation
STUDENT_NOISE = 0.3  # of that of an episode that the expert drives
DECISIONS_AFTER_SUCCESS = 2  # so that the student learns to stay
MAX_STEPS = 200  # control steps of an episode
MAX_EXPERT_PREFIX, PREFIX_FRACTION = 15, 0.3  # decisions before the student drives; share of episodes with some


@dataclass
class Demonstrations:
    """N decisions."""

    images: np.ndarray  # uint8 (N, C, S, S, 3)
    proprio: np.ndarray  # (N, P)
    actions: np.ndarray  # (N, H, A), what the expert would do from here
    landmarks: np.ndarray  # (N, C, 3, 2), where hand, object and goal appear, for the grounding loss alone
    task: np.ndarray  # int64 (N,)
    succeeded: np.ndarray  # bool (N,), of its episode

    def __len__(self) -> int:
        return len(self.proprio)

    @staticmethod
    def concatenate(parts: list[Demonstrations]) -> Demonstrations:
        """Return all demonstrations of the parts, in their order."""
        return Demonstrations(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Demonstrations)))


def demonstrate(
    world: TrainingWorld, task: str, scene: int, horizon: int, student: FrozenPolicy | None
) -> Demonstrations:
    """Return the decisions of one episode, labelled by the expert.

    With a student, it drives and the expert only says what it would have done (DAgger, Ross et al. 2011); else the
    expert drives, disturbed by noise. Labels are always the undisturbed expert's next `horizon` actions, found by
    letting it act and restoring the simulation.

    Args:
        world: With an expert for the task.
        task: Of the world.
        scene: Seed of the scene, and of all that is drawn.
        horizon: H of the labels, and control steps of a decision.
        student: That drives; None: the expert does.
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
        lingers=DECISIONS_AFTER_SUCCESS,
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
        chunk = _chunk(student, observation) if episode.decision >= prefix else None
        for h in range(horizon):
            action = (world.expert() if chunk is None else chunk[h]).copy()
            action[:moves] += bias + share * rng.normal(scale=scale, size=moves)
            episode.step(np.clip(action, -1, 1))
        episode.end_decision()
    images, proprio, actions, landmarks = (np.stack(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Demonstrations(images, proprio, actions, landmarks, np.full(n, index), np.full(n, episode.success))


def _chunk(student: FrozenPolicy | None, observation: Observation) -> np.ndarray | None:
    return student.infer(observation).action if student else None


def _labels(world: TrainingWorld, horizon: int) -> np.ndarray:
    """The expert's next actions, (horizon, A); the simulation is as before."""
    saved, actions = world.save(), []
    for _ in range(horizon):
        actions.append(world.expert())
        world.step(actions[-1])
    world.restore(saved)
    return np.stack(actions)
