"""What of a rollout is recallable, and what follows what."""

import numpy as np
import pytest

from efn_ros.bank.payload import is_blank, successors
from efn_ros.types import Mode

STILL, MOVED = np.zeros(4), np.full(4, 0.1)
HOLDING, MOVING = np.zeros((4, 3)), np.full((4, 3), 0.1)


@pytest.mark.parametrize(
    ("executed", "proprio_next", "mode", "blank"),
    [
        (HOLDING, STILL, Mode.CORRECTED, True),
        (HOLDING, STILL + 1e-4, Mode.BASE, True),
        (MOVING, STILL, Mode.HOLD, True),
        (MOVING, STILL, Mode.STOPPED, True),
        (HOLDING, MOVED, Mode.HOLD, False),
        (MOVING, STILL, Mode.CORRECTED, False),
        (MOVING, MOVED, Mode.BASE, False),
    ],
)
def test_a_step_is_blank_if_it_was_to_hold_and_nothing_moved(executed, proprio_next, mode, blank):
    assert is_blank(executed, STILL, proprio_next, mode) is blank


def test_one_entry_that_moves_is_motion():
    proprio_next = STILL.copy()
    proprio_next[3] = 0.01
    assert not is_blank(HOLDING, STILL, proprio_next, Mode.HOLD)


@pytest.mark.parametrize(
    ("steps", "rows"),
    [([0, 1, 2], [1, 2, 2]), ([4], [0]), ([0, 1, 3, 4], [1, 1, 3, 3])],
    ids=["consecutive", "single", "gap"],
)
def test_a_step_without_a_stored_successor_is_its_own(steps, rows):
    assert successors(np.array(steps)).tolist() == rows
