# SPDX-License-Identifier: MIT
"""How a candidate is trained online, and what it must show before it is offered."""

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

    seed: int = 0  # of all random choices
    held_out_fraction: float = 0.25  # of rollouts that only validate
    min_new_rollouts: int = 10  # from one candidate to the next
    max_rollouts: int = 200  # the newest, which are used
    epochs: int = 4  # few, because training starts from the network in use
    batch_size: int = 64  # decisions an update
    learning_rate: float = 1e-4  # of AdamW
    proximal_weight: float = 0.1  # of the squared change of the residual in units of its bound, over all decisions
    base_weight: float = 0.25  # of a decision of the base policy alone in a success, against 1 for a corrected one
    min_improvement: float = 0.05  # fraction by which the error must fall
    min_held_out_successes: int = 5  # held-out successes that were corrected, over which the error is measured
    max_change: float = 0.5  # largest change of a residual in any held-out decision, in units of its bound
    kept_candidates: int = 5  # unused candidates that are retained: so many accepted and so many rejected ones

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
