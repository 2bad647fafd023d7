# SPDX-License-Identifier: MIT
"""Settings of supervised training: what is collected in each simulated deployment, and how the network is trained."""

from __future__ import annotations

from dataclasses import dataclass

from efn_ros.worlds.deployment import SAMPLED


@dataclass(frozen=True)
class CollectionConfig:
    """What is collected in one deployment."""

    seed: int  # of the deployment and of every random draw in it
    strengths: tuple[tuple[str, float], ...] = ()  # (kind of shift, strength); empty: drawn at random
    other_cameras: int = 2  # further deployments whose cameras observe the same motion, each with a bank of its own
    extra_cameras: int = 4  # random cameras that also observe each sample; they recall from the deployment's own bank
    bank_rollouts: int = 8  # rollouts in the bank
    sample_rollouts: int = 10  # rollouts whose decisions become samples
    bound: tuple[float, ...] = (0.6, 0.6, 0.6, 1.0)  # largest residual of the teacher, (A,), in the action's units
    noise: float = 0.1  # standard deviation of the action noise, which is smooth over a rollout
    nearest_steps: int = 8  # most similar recalled steps
    random_steps: int = 16  # further recalled steps, at random
    checkpoint: str = ""  # of the student, a network that drives half of the rollouts (DAgger); empty: none yet
    graph: str = "metaworld_sim"  # name in config/graphs, or path of a document
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    kinds: tuple[str, ...] = SAMPLED  # kinds of shift to draw from
    tasks: tuple[str, ...] = ()  # empty: all tasks of the world


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `SupervisedTraining`."""

    directory: str  # of the run: state, log, checkpoint
    size: str = "small"  # of the network, one of SIZES
    deployments: tuple[int, ...] = (120, 60)  # number of deployments, one entry a round
    updates: tuple[int, ...] = (3000, 8000)  # one entry a round
    bank_sizes: tuple[int, ...] = (1, 2, 4, 8)  # rollouts in a bank, one of which is drawn for each sample
    batch_size: int = 256  # samples an update
    learning_rate: float = 1e-3  # largest, of AdamW
    weight_decay: float = 0.01  # of AdamW
    dropout: float = 0.1  # rate in the encoder
    augmentation_rate: float = 0.8  # fraction of samples that get another arm
    identification_weight: float = 0.1  # of the estimate of the deployment, in the loss of the residual
    trust_identification_weight: float = 0.3  # likewise, in the loss of trust
    code_size: int = 64  # of `EfnConfig`
    recent_steps: int = 8  # of `EfnConfig`
    trust_updates: int = 2000  # of trust alone, after all others
    negative_fraction: float = 0.4  # fraction of rows of trust that get another deployment's memory
    validation_fraction: float = 0.1  # fraction of the deployments that only validate
    validate_every: int = 250  # updates
    seed: int = 0  # of all random choices
    first_seed: int = 10_000  # of deployments; those below are for evaluation
    use_memory: bool = True  # False: a no-memory baseline
    processes: int = 2  # that collect
    threads: int = 1  # of training
    collection: CollectionConfig = CollectionConfig(seed=0)  # how training samples are collected
