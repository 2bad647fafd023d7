"""How a candidate is made at work, and what it must show before it is offered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RULES = OPERATOR_SWITCHES, RULE_SWITCHES = "operator", "when accepted"  # who switches to an accepted candidate


@dataclass(frozen=True)
class LearnConfig:
    """Settings of learning at work.

    Raises:
        ValueError: A value is out of range; the message names the parameter.
    """

    seed: int = 0
    held_out_fraction: float = 0.25  # of rollouts that only validate
    min_new_rollouts: int = 10  # since the last candidate, before there is another
    max_rollouts: int = 200  # the newest, that are used
    epochs: int = 4  # few: training starts from the network in use
    batch_size: int = 64
    learning_rate: float = 1e-4
    proximal_weight: float = 0.1  # of the squared change of the residual, in shares of its bound, over all decisions
    base_weight: float = 0.25  # of a decision that the base alone made in a success, against 1 for a corrected one
    min_improvement: float = 0.05  # share by which the error must fall
    min_held_out_successes: int = 5  # that were corrected and must show it
    max_change: float = 0.5  # largest change of a residual in any held-out decision, share of its bound
    kept_candidates: int = 5  # of each kind, that are kept though never used

    def __post_init__(self) -> None:
        for name, valid, remedy in (
            ("held_out_fraction", 0 < self.held_out_fraction < 1, "between 0 and 1"),
            ("min_new_rollouts", self.min_new_rollouts >= 1, "at least 1"),
            ("max_rollouts", self.max_rollouts >= 2, "at least 2"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < np.inf, "above 0"),
            ("proximal_weight", 0 <= self.proximal_weight < np.inf, "at least 0"),
            ("base_weight", 0 < self.base_weight <= 1, "above 0 and at most 1"),
            ("min_improvement", 0 < self.min_improvement < 1, "between 0 and 1"),
            ("min_held_out_successes", self.min_held_out_successes >= 1, "at least 1"),
            ("max_change", 0 < self.max_change <= 2, "above 0 and at most 2"),
            ("kept_candidates", self.kept_candidates >= 1, "at least 1"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {remedy}")
