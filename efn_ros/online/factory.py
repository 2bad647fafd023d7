"""From parameters to the learner that works beside a running graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from efn_ros.efn.config import PACKAGED
from efn_ros.online.config import LearnConfig
from efn_ros.online.learner import Learner
from efn_ros.resources import checkpoint_directory
from efn_ros.runtime.experiments import EXPERIMENT
from efn_ros.runtime.factory import Parameters, make_retrieval_config


def make_learner(p: Parameters, retrieval: Parameters, corrector: Parameters, **hooks: Callable) -> Learner:
    """Build the learner of efn_trainer.

    Args:
        p: Parameters of efn_trainer.
        retrieval: Parameters of experience_retrieval, with which the robot is corrected.
        corrector: Parameters of efn_corrector, likewise.
        **hooks: `pause` and `report` of `Learner`.

    Raises:
        ValueError: Parameters are out of range, or the correction is not one that can learn.
    """
    if corrector["method"] != "learned" or corrector.get(EXPERIMENT):
        made = corrector.get(EXPERIMENT) or corrector["method"]
        raise ValueError(f"efn_corrector corrects by {made!r}; only method 'learned' can learn at work")
    config = LearnConfig(**{field.name: p[field.name] for field in fields(LearnConfig)})
    checkpoint = checkpoint_directory(corrector["checkpoint"], PACKAGED)
    options = {"gain": corrector["gain"], "rule": p["rule"]}
    return Learner(p["bank"], checkpoint, config, make_retrieval_config(retrieval), **options, **hooks)
