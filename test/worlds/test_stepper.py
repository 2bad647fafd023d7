# SPDX-License-Identifier: MIT
"""The stepper: control steps are counted, chunks executed in part, and an episode ends once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.worlds import WorldSpec
from efn_ros.worlds.stepper import Stepper


class Counter:
    """A world that succeeds at its n-th control step, and writes down what it was told."""

    def __init__(self, success_at: int | None = None, horizon: int = 10) -> None:
        self.spec = WorldSpec(
            name="counter",
            tasks={"count": "count up", "wait": "do nothing"},
            cameras=("eye",),
            low=np.full(2, -1.0, np.float32),
            high=np.full(2, 1.0, np.float32),
            proprio_names=("count",),
            horizon={"count": horizon, "wait": horizon + 5},
            rate_hz=20.0,
        )
        self.success_at, self.resets, self.actions = success_at, [], []

    def reset(self, task, seed):
        self.resets.append((task, seed))
        self.actions.clear()

    def observe(self):
        return {"eye": np.zeros((4, 4, 3), np.uint8)}, np.float32([len(self.actions)])

    def step(self, action):
        self.actions.append(action.tolist())
        return len(self.actions) == self.success_at

    def close(self): ...


def chunk(rows, value=0.0):
    return np.full((rows, 2), value, np.float32)


def test_an_episode_begins_with_a_reset_of_its_task_and_seed():
    world = Counter()
    stepper = Stepper(world, "wait", 7, execute_steps=4)
    assert world.resets == [("wait", 7)]
    assert (stepper.control_step, stepper.horizon) == (0, 15)
    assert not (stepper.success or stepper.truncated or stepper.done)


def test_the_first_rows_of_a_chunk_are_executed_in_order():
    world = Counter()
    stepper = Stepper(world, "count", 0, execute_steps=3)
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    stepper.execute(rows)
    assert world.actions == rows[:3].tolist()
    assert stepper.control_step == 3 and not stepper.done


def test_a_chunk_that_is_shorter_is_executed_whole():
    world = Counter()
    stepper = Stepper(world, "count", 0, execute_steps=3)
    stepper.execute(chunk(2))
    assert stepper.control_step == len(world.actions) == 2


def test_it_stops_at_success_in_the_middle_of_a_chunk():
    world = Counter(success_at=5)
    stepper = Stepper(world, "count", 0, execute_steps=4)
    stepper.execute(chunk(4))
    stepper.execute(chunk(4))
    assert (stepper.success, stepper.truncated, stepper.done) == (True, False, True)
    assert stepper.control_step == len(world.actions) == 5
    stepper.execute(chunk(4))
    assert len(world.actions) == 5


def test_it_stops_at_the_horizon_in_the_middle_of_a_chunk():
    world = Counter(horizon=6)
    stepper = Stepper(world, "count", 0, execute_steps=4)
    stepper.execute(chunk(4))
    stepper.execute(chunk(4))
    assert (stepper.success, stepper.truncated, stepper.done) == (False, True, True)
    assert stepper.control_step == len(world.actions) == 6


def test_success_at_the_very_last_step_is_a_success():
    stepper = Stepper(Counter(success_at=4, horizon=4), "count", 0, execute_steps=4)
    stepper.execute(chunk(4))
    assert (stepper.success, stepper.truncated) == (True, False)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(1, 9))
def test_an_episode_takes_as_many_steps_as_success_or_horizon_say(success_at, horizon, execute_steps, rows):
    stepper = Stepper(Counter(success_at, horizon), "count", 0, execute_steps=execute_steps)
    decisions = 0
    while not stepper.done:
        stepper.execute(chunk(rows))
        decisions += 1
    assert stepper.control_step == min(success_at, horizon)
    assert stepper.success == (success_at <= horizon)
    assert decisions == -(-stepper.control_step // min(execute_steps, rows))


def test_an_unknown_task_has_no_horizon():
    with pytest.raises(KeyError, match="fly"):
        Stepper(Counter(), "fly", 0, execute_steps=1)
