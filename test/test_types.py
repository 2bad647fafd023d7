# SPDX-License-Identifier: MIT
"""Recalled steps as columns and one by one."""

import numpy as np
import pytest
from sample_recalls import stack_experiences

from efn_ros.types import Experience, Experiences, Outcome


def experience(value) -> Experience:
    chunk, row = np.full((2, 3), value, np.float32), np.full(4, value, np.float32)
    outcome = Outcome.SUCCESS if value % 2 else Outcome.FAILURE
    return Experience(
        f"r{value}", value, "reach the goal", outcome, 8, chunk, chunk + 1, row, row + 1, chunk + 2, row + 2, row[:3],
        0.9, 0.8, 0.1, row[:1],
    )  # fmt: skip


def test_stacked_steps_are_read_back_one_by_one():
    given = [experience(value) for value in range(3)]
    steps = stack_experiences(*given)
    assert len(steps) == 3 and bool(steps) and steps.executed.shape == (3, 2, 3)
    for one, back in zip(given, steps, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(back, name), value)
        assert type(back.outcome) is Outcome and type(back.step) is int and type(back.score) is float
    assert steps[-1].rollout_id == "r2" and not Experiences() and not stack_experiences()


def test_invalid_indices_and_columns_are_refused():
    steps = stack_experiences(experience(1))
    with pytest.raises(IndexError, match="index 1 is out of range; 1 steps were recalled"):
        steps[1]
    with pytest.raises(ValueError, match="proprio has 2 steps, but rollout_id has 1"):
        Experiences(**vars(steps) | {"proprio": np.zeros((2, 4), np.float32)})
