# SPDX-License-Identifier: MIT
"""Settings of soft actor-critic and of a fine-tuning run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efn_ros.experiments.sac.rewards import RewardConfig

MAX_SCENES = 100  # for the bank of one deployment, and as many for its validation
REWARDS, SIMILARITIES = ("sparse", "semantic", "anti_idling"), ("fused", "key", "sinkhorn")


@dataclass(frozen=True)
class SacConfig:
    """Settings of `Sac`; the defaults are those of appendix B, where it has some.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    bound: tuple[float, ...]  # largest residual, (A,), in the action's units
    gamma: float = 0.98  # discount of one decision
    polyak: float = 0.005  # share of the critics in their targets at each update
    learning_rate: float = 3e-4  # of critics and temperature
    actor_learning_rate: float | None = None  # None: `learning_rate`, which the temperature always takes
    weight_decay: float = 0.0  # of AdamW
    temperature: float = 1.0  # alpha of (11) and (13) at the start
    target_entropy: float | None = -0.25  # nats for each degree of freedom of an action; None: alpha stays as it is
    subset: int = 2  # critics, drawn at each update, whose minimum is taken
    actor_every: int = 1  # updates of the critics for one of the actor
    max_gradient_norm: float = 0.0  # 0: gradients are not clipped
    proximal_weight: float = 0.0  # of the squared distance to the proximal actor's mean, in shares of the bound
    conservative_weight: float = 0.0  # of the conservative loss in `Sac.warm_start`
    conservative_actions: int = 10  # drawn for that loss from the policy, and as many uniformly
    seed: int = 0  # of all random choices

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", tuple(self.bound))
        least = dict.fromkeys(("subset", "actor_every", "conservative_actions"), 1)
        least |= dict.fromkeys(("weight_decay", "max_gradient_norm", "conservative_weight", "proximal_weight"), 0)
        for name, low in least.items():
            if not low <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and at least {low}")
        most = {"gamma": 1, "polyak": 1, "learning_rate": math.inf, "temperature": math.inf}
        if self.actor_learning_rate is not None:
            most["actor_learning_rate"] = math.inf
        for name, high in most.items():
            if not 0 < getattr(self, name) <= high or math.isinf(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and at most {high}")
        if not self.bound or not all(0 <= b < math.inf for b in self.bound):
            raise ValueError(f"bound is {self.bound}; each dimension of an action needs one, finite and at least 0")


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of `learner.finetune`.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    directory: str  # of the run
    checkpoint: str  # the supervised EFN
    graph: str = "metaworld_sim"  # name in config/graphs, or path of a document
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    episodes: int = 10_000  # a run ends after so many episodes or minutes
    minutes: float = math.inf  # longest wall time
    seed: int = 0  # of all random choices
    deployments: int = 32  # to train in
    tasks: int = 4  # of the world's, drawn for each deployment
    bank_rollouts: int = 8  # of the base alone, in the bank of each deployment
    bank_sizes: tuple[int, ...] = (1, 2, 4, 8)  # rollouts of it that an episode may recall, drawn
    nearest_steps: int = 8  # recalled steps, as the network was trained with
    random_steps: int = 16  # more recalled steps, at random
    round_deployments: int = 8  # in which a round runs episodes
    round_episodes: int = 2  # in each of them
    max_prefix: float = 0.4  # longest prefix of the base before an episode, share of its horizon (PLD)
    reward: str = "sparse"  # beside success: "sparse", a potential; "semantic", (8)(9); "anti_idling", (14)-(16)
    similarity: str = "fused"  # of rewards: "fused", (38); "key", the cosine of (8); "sinkhorn", (55)
    reward_weights: RewardConfig = RewardConfig(success=1.0)  # of the terms of the reward
    critics: int = 2  # how many
    # of the learner
    sac: SacConfig = SacConfig(
        bound=(0.0,),  # the bound of the checkpoint takes its place
        actor_learning_rate=3e-5,
        temperature=1e-4,
        actor_every=2,
        max_gradient_norm=1.0,
        proximal_weight=0.1,
    )
    log_std: float = -3.0  # of the actor at the start
    xi: float = 0.5  # share of the bound at the start, raised to 1
    phase_in: int = 20  # rounds over which it is raised
    warm_updates: int = 500  # of the critics, before the first round
    critic_rounds: int = 10  # rounds in which the critics alone learn
    updates: float = 0.5  # for each new decision
    batch_size: int = 32  # transitions an update
    capacity: int = 20_000  # decisions in the replay, of all episodes and of successes
    validation_deployments: int = 6  # held out, the same in each round
    validation_episodes: int = 6  # in each
    validate_every: int = 20  # rounds
    save_every: int = 5  # rounds
    processes: int = 2  # that run episodes
    threads: int = 1  # of learning

    def __post_init__(self) -> None:
        for name, allowed in (("reward", REWARDS), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; name one of {', '.join(map(repr, allowed))}")
        if self.tasks < 1:
            raise ValueError(f"tasks is {self.tasks}; it must be at least 1")
        if self.round_deployments > self.deployments:
            raise ValueError(
                f"round_deployments is {self.round_deployments}; it must be at most deployments, {self.deployments}"
            )
        for name in ("bank_rollouts", "validation_episodes"):
            if not 1 <= getattr(self, name) <= MAX_SCENES:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to {MAX_SCENES}")
        for name in ("max_prefix", "xi"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
