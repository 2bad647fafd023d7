"""Paired evaluation without ROS: what memory is worth, in deployments that nobody has trained in and as trained.

`plan` says which ways meet which scenes, `evaluate` runs what is missing of that, `comparisons` says what came of it.
"""

from efn_ros.evaluation.plan import BASE, MEMORY, Job, TrainedDeploymentError, Way, plan
from efn_ros.evaluation.run import Episode, evaluate
from efn_ros.evaluation.statistics import Comparison, Estimate, compare, comparisons

__all__ = [
    "BASE",
    "MEMORY",
    "Comparison",
    "Episode",
    "Estimate",
    "Job",
    "TrainedDeploymentError",
    "Way",
    "compare",
    "comparisons",
    "evaluate",
    "plan",
]
