# SPDX-License-Identifier: MIT
"""From parameters to the learner that runs beside a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from efn_ros.efn.config import PACKAGED
from efn_ros.online.config import LearnConfig
from efn_ros.online.learner import Learner
from efn_ros.resources import checkpoint_directory
from efn_ros.runtime.experiments import EXPERIMENT
from efn_ros.runtime.factory import Parameters, make_retrieval_config


def make_learner(
    p: Parameters,
    retrieval: Parameters,
    corrector: Parameters,
    *,
    pause: Callable[[], None] = lambda: None,
    report: Callable[[str], None] = lambda text: None,
) -> Learner:
    """Build the learner of efn_trainer.

    Args:
        p: Parameters of efn_trainer.
        retrieval: Parameters of experience_retrieval in the running graph.
        corrector: Parameters of efn_corrector in the running graph.
        pause: As of `Learner`.
        report: As of `Learner`.

    Raises:
        ValueError: Parameters are out of range, or the method of correction cannot learn.
    """
    if corrector["method"] != "learned" or corrector.get(EXPERIMENT):
        method = corrector.get(EXPERIMENT) or corrector["method"]
        raise ValueError(f"efn_corrector corrects by {method!r}; only method 'learned' can learn online")
    return Learner(
        p["bank"],
        checkpoint_directory(corrector["checkpoint"], PACKAGED),
        LearnConfig(**{field.name: p[field.name] for field in fields(LearnConfig)}),
        make_retrieval_config(retrieval),
        gain=corrector["gain"],
        rule=p["rule"],
        pause=pause,
        report=report,
    )
