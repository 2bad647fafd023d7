"""Settings of a fine-tuning run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efn_ros.experiments.sac.rewards import Shaping
from efn_ros.experiments.sac.sac import SacConfig

MAX_SCENES = 100  # for the bank of one deployment, and as many to measure in
REWARDS, SIMILARITIES = ("sparse", "semantic", "anti_idling"), ("fused", "key", "sinkhorn")


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of `learner.finetune`.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    directory: str
    checkpoint: str  # the supervised EFN
    graph: str = "metaworld_sim"
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    episodes: int = 10_000  # whichever of these two comes first ends the run
    minutes: float = math.inf
    seed: int = 0
    deployments: int = 32  # that are run in
    tasks: int = 4  # of the world's, drawn for each deployment
    bank_rollouts: int = 8  # of the base alone, that fill the bank of each deployment
    bank_sizes: tuple[int, ...] = (1, 2, 4, 8)  # rollouts of it that an episode may recall, drawn
    nearest_steps: int = 8  # recalled steps, as the network was trained with
    random_steps: int = 16
    visits: int = 8  # deployments a round
    visit_episodes: int = 2  # in each
    prefix: float = 0.4  # longest walk of the base before an episode, share of its horizon (PLD's probing)
    reward: str = "sparse"  # beside success: "sparse", a potential; "semantic", (8)(9); "anti_idling", (14)-(16)
    similarity: str = "fused"  # of rewards: "fused", (38); "key", the cosine of (8); "sinkhorn", (55)
    shaping: Shaping = Shaping(success=1.0)
    critics: int = 2  # how many
    sac: SacConfig = SacConfig(
        bound=(0.0,), actor_learning_rate=3e-5, temperature=1e-4, actor_every=2, clip=1.0, anchor=0.1
    )  # its bound is the checkpoint's, its anchor the supervised network
    log_std: float = -3.0  # of the actor at its start
    xi: float = 0.5  # share of the bound at the start, raised to 1
    phase_in: int = 20  # rounds over which it is
    warm_updates: int = 500  # of the critics, before the first round
    critic_rounds: int = 10  # rounds in which the critics alone learn
    updates: float = 0.5  # for each new decision
    batch_size: int = 32
    capacity: int = 20_000  # decisions kept, of all and of successes
    measured: int = 6  # deployments that only measure
    measured_episodes: int = 6  # in each
    measure_every: int = 20  # rounds
    save_every: int = 5  # rounds
    processes: int = 2  # that run episodes
    threads: int = 1  # of learning

    def __post_init__(self) -> None:
        for name, allowed in (("reward", REWARDS), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; there are {', '.join(map(repr, allowed))}")
        if self.tasks < 1:
            raise ValueError(f"tasks is {self.tasks}; it must be at least 1")
        if self.visits > self.deployments:
            raise ValueError(f"visits is {self.visits}, but there are {self.deployments} deployments; raise those")
        for name in ("bank_rollouts", "measured_episodes"):
            if not 1 <= getattr(self, name) <= MAX_SCENES:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to {MAX_SCENES}")
        for name in ("prefix", "xi"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
