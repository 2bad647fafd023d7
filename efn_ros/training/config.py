"""Settings of supervised training on samples from simulated deployments."""

from __future__ import annotations

from dataclasses import dataclass

from efn_ros.training.collection import CollectionConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `SupervisedTraining`."""

    directory: str
    size: str = "small"  # of the network, one of SIZES
    deployments: tuple[int, ...] = (120, 60)  # one entry a round
    updates: tuple[int, ...] = (3000, 8000)  # one entry a round
    bank_sizes: tuple[int, ...] = (1, 2, 4, 8)  # rollouts of the banks that are drawn
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    augmentation_rate: float = 0.8  # share of samples that are trained with another arm behind them
    identification_weight: float = 0.1  # of the estimate of the deployment, in the loss of the residual
    trust_identification_weight: float = 0.3  # likewise, in the loss of trust
    code_size: int = 64  # of `EfnConfig`
    recent_steps: int = 8  # of `EfnConfig`
    trust_updates: int = 2000  # of trust alone, after all others
    negative_fraction: float = 0.4  # share of rows of trust that get another deployment's memory
    validation_fraction: float = 0.1  # share of the deployments that only validate
    validate_every: int = 250  # updates
    seed: int = 0
    first_seed: int = 10_000  # of deployments; those below are for evaluation
    use_memory: bool = True  # False: a no-memory baseline
    processes: int = 2  # that collect
    threads: int = 1  # of training
    collection: CollectionConfig = CollectionConfig(seed=0)
