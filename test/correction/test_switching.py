# SPDX-License-Identifier: MIT
"""A switched checkpoint corrects from the next episode on and never within one; what does not fit is named and left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_work import BOUND, RECALL, checkpoint, patterned, store

from efn_ros.bank import BankReader
from efn_ros.correction import Corrector
from efn_ros.correction.checkpoint_registry import Registry
from efn_ros.correction.learned import LearnedResidual
from efn_ros.correction.limits import ActionLimits
from efn_ros.correction.switching import Switching
from efn_ros.efn.actor import Efn
from efn_ros.retrieval import Retriever


class Robot:
    """A corrector over a bank, with the steps of one remembered rollout as what it meets."""

    def __init__(self, tmp_path: Path) -> None:
        made = list(patterned(6))
        bank = store(tmp_path / "bank", made[:5])
        self.origin, self.registry = checkpoint(tmp_path / "origin"), Registry(bank)
        self.registry.begin(self.origin)
        self._steps, self._retriever = made[5].steps, Retriever(BankReader(bank), RECALL)
        inf = [np.inf] * 3
        limits = ActionLimits.create(
            rate_hz=20.0, low=[-9.0] * 3, high=[9.0] * 3, velocity=inf, acceleration=inf, jerk=inf, reject=inf,
            residual=list(BOUND), holds_last=[False] * 3,
        )  # fmt: skip
        self.corrector = Corrector(limits, LearnedResidual(self.origin), control_steps=1)
        self.switching = Switching(
            self.corrector, self.registry, self.origin, lambda path: (LearnedResidual(path), None)
        )

    def candidate(self, said: float, **report) -> int:
        """An accepted one that always adds the same."""
        efn = Efn.from_pretrained(self.origin)
        torch.nn.init.constant_(efn.head.bias, float(np.arctanh(said / BOUND[0])))
        current = self.registry.current()
        proof = {"accepted": True, "reason": "", "parent": {"number": current.number}, **report}
        return self.registry.add(efn.save_pretrained, proof, keep=9).number

    def added(self, episode: str, step: int = 0, policy: str = "policy-1") -> float:
        """What the corrector adds in a decision."""
        seen = self._steps[step].policy_step
        seen = replace(seen, context=replace(seen.context, episode_id=episode, step=step), policy=policy)
        self.switching.begin(seen)
        correction = self.corrector.correct(seen, self._retriever.recall(seen))
        return round(float(correction.residual.mean()), 3)


@pytest.fixture
def robot(tmp_path):
    return Robot(tmp_path)


def test_a_switch_and_its_undoing_are_taken_up_with_the_next_episode_and_never_within_one(robot):
    number = robot.candidate(0.2)
    robot.switching.prefetch()
    assert robot.added("first", 0) == 0.0
    robot.registry.switch(number)
    robot.switching.prefetch()  # loaded within the episode, and not used in it
    assert [robot.added("first", step) for step in (1, 2)] == [0.0, 0.0]
    assert robot.switching.running.startswith("0 ")
    assert [robot.added("second", step) for step in (0, 1)] == [0.2, 0.2]
    assert robot.switching.running == f"{number} {robot.registry.current().fingerprint}"
    robot.registry.undo()
    robot.switching.prefetch()
    assert robot.added("second", 2) == 0.2
    assert robot.added("third") == 0.0 and robot.switching.refused == ""


def test_a_switch_that_is_undone_before_the_next_episode_never_corrects(robot):
    robot.registry.switch(robot.candidate(0.2))
    robot.switching.prefetch()
    robot.registry.undo()
    robot.switching.prefetch()
    assert robot.added("first") == 0.0


def test_before_anything_is_learnt_its_own_checkpoint_corrects(tmp_path):
    own = checkpoint(tmp_path / "own")
    switching = Switching(None, Registry(tmp_path / "bank"), own, None)
    switching.prefetch()
    assert switching.facts == {"checkpoint": switching.running, "refused": ""} and switching.running.startswith("0 ")


def altered(robot):
    (robot.registry.checkpoints()[1].path / "model.safetensors").write_bytes(b"altered")
    return "checkpoint 1 is .* on disk, but .* was accepted"


def of_another_origin(robot):
    (robot.registry.checkpoints()[0].path / "report.json").write_text('{"fingerprint": "0123", "accepted": true}')
    return "began with checkpoint 0123, but checkpoint of efn_corrector is"


def of_other_sizes(robot):
    (robot.origin / "config.json").write_text((robot.origin / "config.json").read_text().replace("64", "65"))
    return "checkpoint 1 has feedforward 64, but the corrector's own has 65"


def meddled_with(robot):
    (robot.registry.checkpoints()[1].path / "report.json").write_text("{}")
    return "fingerprint"


def gone(robot):
    path = robot.registry.checkpoints()[1].path
    path.rename(path.with_name("elsewhere"))
    return "has no checkpoint 1"


@pytest.mark.parametrize(
    "spoil", [altered, of_another_origin, of_other_sizes, meddled_with, gone], ids=lambda f: f.__name__
)
def test_one_that_does_not_fit_is_named_and_the_present_one_stays(robot, spoil):
    robot.registry.switch(robot.candidate(0.2))
    message = spoil(robot)
    robot.switching.prefetch()
    assert robot.added("first") == 0.0 and robot.switching.running.startswith("0 ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(robot.switching.refused)


def test_one_that_was_learnt_with_another_policy_is_named_and_left(robot):
    robot.registry.switch(robot.candidate(0.2, policy="policy-0"))
    robot.switching.prefetch()
    assert robot.added("first") == 0.0
    assert robot.switching.refused == "checkpoint 1 was trained with policy policy-0, but the policy is policy-1"
