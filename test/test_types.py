"""Recalled steps: side by side and one by one they say the same."""

import numpy as np
import pytest

from efn_ros.types import Experience, Experiences, Outcome


def experience(value) -> Experience:
    chunk, row = np.full((2, 3), value, np.float32), np.full(4, value, np.float32)
    outcome = Outcome.SUCCESS if value % 2 else Outcome.FAILURE
    return Experience(
        f"r{value}", value, "reach the goal", outcome, 8, chunk, chunk + 1, row, row + 1, chunk + 2, row + 2, row[:3],
        0.9, 0.8, 0.1, row[:1],
    )  # fmt: skip


def test_what_was_put_side_by_side_comes_back_one_by_one():
    given = [experience(value) for value in range(3)]
    steps = Experiences.of(*given)
    assert len(steps) == 3 and bool(steps) and steps.executed.shape == (3, 2, 3)
    for one, back in zip(given, steps, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(back, name), value)
        assert type(back.outcome) is Outcome and type(back.step) is int and type(back.score) is float
    assert steps[-1].rollout_id == "r2" and not Experiences() and not Experiences.of()


def test_an_index_and_a_column_that_are_not_there_are_named():
    steps = Experiences.of(experience(1))
    with pytest.raises(IndexError, match="there are 1 recalled steps, not one of index 1"):
        steps[1]
    with pytest.raises(ValueError, match="proprio is of 2 steps, rollout_id of 1"):
        Experiences(**vars(steps) | {"proprio": np.zeros((2, 4), np.float32)})
