"""How a candidate is made at work, and what it must show before it is offered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OPERATOR_SWITCHES, RULE_SWITCHES = RULES = ("operator", "when proven")


@dataclass(frozen=True)
class LearnConfig:
    """How a candidate is made and what it must prove.

    held_out: share of rollouts that only prove. least_new: rollouts since the last candidate before there is another.
    most_rollouts: the newest that are used. learning_rate, epochs, batch: of AdamW; few and small, it starts from what
    is in use. nearness: weight of the squared change of the residual, in shares of its bound, over all decisions.
    anchor: weight of a decision that the base alone made in a success, against 1 for one that was corrected. margin:
    share by which the error must fall; least_held_out: held-out successes that were corrected and must show it.
    most_change: largest change of a residual in any held-out decision, as a share of its bound. kept: candidates of
    each kind that are kept though never used. Raises ValueError, naming the parameter, for a value out of range.
    """

    seed: int = 0
    held_out: float = 0.25
    least_new: int = 10
    most_rollouts: int = 200
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 1e-4
    nearness: float = 0.1
    anchor: float = 0.25
    margin: float = 0.05
    least_held_out: int = 5
    most_change: float = 0.5
    kept: int = 5

    def __post_init__(self) -> None:
        for name, valid, remedy in (
            ("held_out", 0 < self.held_out < 1, "between 0 and 1"),
            ("least_new", self.least_new >= 1, "at least 1"),
            ("most_rollouts", self.most_rollouts >= 2, "at least 2"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < np.inf, "above 0"),
            ("nearness", 0 <= self.nearness < np.inf, "at least 0"),
            ("anchor", 0 < self.anchor <= 1, "above 0 and at most 1"),
            ("margin", 0 < self.margin < 1, "between 0 and 1"),
            ("least_held_out", self.least_held_out >= 1, "at least 1"),
            ("most_change", 0 < self.most_change <= 2, "above 0 and at most 2"),
            ("kept", self.kept >= 1, "at least 1"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {remedy}")
