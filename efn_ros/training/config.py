"""Settings of supervised training on collected samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from efn_ros.efn.config import ACTION, LATENT, SPACES
from efn_ros.training.collection import LessonConfig


@dataclass(frozen=True)
class TrainConfig:
    """deployments, updates: one entry a round. volumes: of banks, in rollouts. disguised: share of taught decisions
    that are taught with another arm. identification, trust_identification: weights of telling the deployment.
    codes, recent: of `EfnConfig`. trust_updates: of trust, after all others, with another deployment's memory in a
    share of `wrong` of the rows. validation: share of the deployments that only measure. first_seed: of deployments;
    those below are for evaluation. remembers: False trains a network without memory, to compare with. space: of
    `EfnConfig`. In "latent" lessons keep V, and `latent_bound` is `latent_share` of how far each channel
    spreads over the lessons. Raises ValueError for another space.
    """

    directory: str
    size: str = "small"
    deployments: tuple[int, ...] = (120, 60)
    updates: tuple[int, ...] = (3000, 8000)
    volumes: tuple[int, ...] = (1, 2, 4, 8)
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    disguised: float = 0.8
    identification: float = 0.1
    trust_identification: float = 0.3
    codes: int = 64
    recent: int = 8
    trust_updates: int = 2000
    wrong: float = 0.4
    validation: float = 0.1
    validate_every: int = 250
    seed: int = 0
    first_seed: int = 10_000
    remembers: bool = True
    processes: int = 2
    threads: int = 1
    space: str = ACTION
    latent_share: float = 0.5
    lessons: LessonConfig = LessonConfig(seed=0)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"space is {self.space!r}; there are {', '.join(map(repr, SPACES))}")
        if self.space == LATENT:
            object.__setattr__(self, "lessons", replace(self.lessons, visual=True))
