# SPDX-License-Identifier: MIT
"""Paired evaluation without ROS: what the policy gains from memory, in held-out deployments and as trained.

`plan` determines which conditions are run on which scenes, `evaluate` runs the missing episodes, and `comparisons`
compares the outcomes.
"""

from efn_ros.evaluation.episodes import EvaluatedEpisode
from efn_ros.evaluation.plan import BASE, MEMORY, Condition, Job, TrainedDeploymentError, plan
from efn_ros.evaluation.run import evaluate
from efn_ros.evaluation.statistics import Comparison, Estimate, compare, comparisons

__all__ = [
    "BASE",
    "MEMORY",
    "Comparison",
    "Condition",
    "Estimate",
    "EvaluatedEpisode",
    "Job",
    "TrainedDeploymentError",
    "compare",
    "comparisons",
    "evaluate",
    "plan",
]
