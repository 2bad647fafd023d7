"""Paired evaluation without ROS: what memory gains, in deployments that nothing was trained in and as trained.

`plan` says which conditions meet which scenes, `evaluate` runs what is missing of it, `comparisons` compares the
outcomes.
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
